"""Commands side by side: each in turn, round after round, and a table of the ratios.

A command prints JSON lines; the last with "tokens_per_s" counts.  Rounds alternate because a
machine's speed drifts: what is compared is the ratio of two commands in the same round.
"""

import dataclasses
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dars_jax.records import storage


@dataclasses.dataclass(frozen=True)
class Entry:
    """A command that is timed."""

    program: str  # row of the table
    work: str  # column
    argv: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Entry":
        """Of PROGRAM:WORK=COMMAND.

        Raises:
          ValueError: it has another form.
        """
        name, equals, command = text.partition("=")
        program, colon, work = name.partition(":")
        if not (equals and colon and program and work and command.strip()):
            raise ValueError(
                f"{text!r} is no comparison: write PROGRAM:WORK=COMMAND, for example "
                "'ours:update=python -m dars_jax.bench update'"
            )
        return cls(program, work, tuple(shlex.split(command)))


def run(entry: Entry) -> dict[str, Any]:
    """What the command says of itself.

    Raises:
      ValueError: it fails, or prints no JSON line with "tokens_per_s".
    """
    done = subprocess.run(entry.argv, stdout=subprocess.PIPE, text=True, check=False)
    said = f"{entry.program}:{entry.work} ({shlex.join(entry.argv)})"
    if done.returncode:
        raise ValueError(f"{said} ended with exit code {done.returncode}")
    timed = [line for line in map(_line, done.stdout.splitlines()) if "tokens_per_s" in line]
    if not timed:
        raise ValueError(f'{said} printed no JSON line with "tokens_per_s"')
    return timed[-1]


def _line(text: str) -> dict[str, Any]:
    """A line of JSON, or nothing: a trainer may print dictionaries of Python's too."""
    try:
        line = json.loads(text) if text.startswith("{") else {}
    except json.JSONDecodeError:
        return {}
    return line


def compare(entries: Sequence[Entry], rounds: int, file: Path) -> list[dict[str, Any]]:
    """Runs all in turn, `rounds` more times; adds a line to `file` for each -> all its lines.

    Raises:
      ValueError: a command fails; the lines before it are kept.
    """
    first = 1 + max((line["round"] for line in read(file)), default=-1) if file.exists() else 0
    for number in range(first, first + rounds):
        for entry in entries:
            print(f"round {number + 1 - first}/{rounds}: {entry.program}, {entry.work}",
                  file=sys.stderr)  # fmt: skip
            line = {"program": entry.program, "of": entry.work, "round": number,
                    "command": shlex.join(entry.argv), **run(entry),
                    "load": round(os.getloadavg()[0], 2)}  # fmt: skip
            with storage.writing(file), open(file, "a") as out:
                out.write(json.dumps(line) + "\n")
    return read(file)


def read(file: Path) -> list[dict[str, Any]]:
    """The lines of earlier comparisons.

    Raises:
      ValueError: there is no such file, or it holds something else.
    """
    if not file.exists():
        raise ValueError(f"{file} does not exist: name a file of an earlier comparison")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    if not all({"program", "of", "round", "tokens_per_s"} <= line.keys() for line in lines):
        raise ValueError(f"{file} holds other lines than those of a comparison")
    return lines


def table(lines: Iterable[dict[str, Any]]) -> str:
    """Markdown: their time / the time of the first program, median of rounds (least to most).

    `matmul_share` of the first program, where it says one, is the last row.
    """
    lines = list(lines)
    rate: dict[tuple[str, str], dict[int, float]] = {}
    shares: dict[str, list[float]] = {}
    for line in lines:
        rate.setdefault((line["program"], line["of"]), {})[line["round"]] = line["tokens_per_s"]
        if "matmul_share" in line and line["program"] == lines[0]["program"]:
            shares.setdefault(line["of"], []).append(line["matmul_share"])
    programs = list(dict.fromkeys(program for program, _ in rate))
    works = list(dict.fromkeys(work for _, work in rate))
    ours, *others = programs
    rows = [["their time / ours", *works],
            [f"{ours}, tokens per second",
             *(_median(rate.get((ours, w), {}).values(), ",.0f") for w in works)]]  # fmt: skip
    for other in others:
        ratios = [_ratios(rate.get((ours, w), {}), rate.get((other, w), {})) for w in works]
        rows.append([other, *(_median(r, ".2f") for r in ratios)])
    if shares:
        bound = [_median(shares.get(w, ()), ".2f") for w in works]
        rows.append(["nothing but matrix products", *bound])
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Of the rounds that both were in."""
    return [ours[i] / theirs[i] for i in sorted(ours.keys() & theirs.keys())]


def _median(values: Iterable[float], form: str) -> str:
    found = sorted(values)
    if not found:
        return ""
    spread = f" ({found[0]:{form}}–{found[-1]:{form}})" if len(found) > 1 else ""
    return f"{statistics.median(found):{form}}{spread}"
