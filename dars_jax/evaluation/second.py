"""A second grader's verdicts on graded answers: figures side by side, and where both differ.

Reads answers as text, samples nothing.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dars_jax.evaluation import scores
from dars_jax.evaluation.benchmarks import Benchmark
from dars_jax.evaluation.scores import Answers, Report
from dars_jax.records import storage
from dars_jax.rewards import OUTSIDE, Context, Grader, GradingError, Verdict, last_box

SHOWN = 20  # differences in the report; all are in the file
_BATCH = 4096  # responses graded at a time
_TAIL = 200  # characters of a response without a box


@dataclasses.dataclass(frozen=True)
class Graded:
    """One answer and the first grader's verdict."""

    benchmark: int
    problem: int  # row of the benchmark
    sample: int
    response: str
    verdict: Verdict
    finished: bool | None


@dataclasses.dataclass(frozen=True)
class Second:
    """What the second grader says."""

    first: str  # name of the other
    name: str
    reports: dict[str, Report]  # by benchmark
    overall: Report
    num_answers: int
    differences: tuple[dict[str, Any], ...]  # {benchmark, id, sample, gold, answer, first, second}


def judge(
    graded: Iterable[Graded],
    benchmarks: Sequence[Benchmark],
    grader: Grader,
    names: tuple[str, str],
    seed: int,
) -> Second:
    """Grades every answer again.

    Args:
      names: of the first grader and of this one.
      seed: of the bootstrap.

    Raises:
      GradingError: it leaves out all answers to a problem.
    """
    where, reward, verdict = [], [], []
    differences = []
    stream = iter(graded)
    while batch := list(itertools.islice(stream, _BATCH)):
        rows = [benchmarks[g.benchmark].examples.rows[g.problem] for g in batch]
        contexts = [
            Context(row.uid, row.prompt, row.others, finished=g.finished)
            for g, row in zip(batch, rows, strict=True)
        ]
        golds = [row.answer for row in rows]
        grades = grader.grade([g.response for g in batch], golds, contexts)
        for g, gold, grade in zip(batch, golds, grades, strict=True):
            where.append((g.benchmark, g.problem))
            reward.append(grade.reward)
            verdict.append(grade.verdict)
            if (g.verdict == Verdict.CORRECT) != (grade.verdict == Verdict.CORRECT):
                box = last_box(g.response)
                differences.append({
                    "benchmark": benchmarks[g.benchmark].name,
                    "id": benchmarks[g.benchmark].ids[g.problem], "sample": g.sample,
                    "gold": list(gold), "answer": g.response[-_TAIL:] if box is None else box,
                    "first": g.verdict.name.lower(), "second": grade.verdict.name.lower(),
                })  # fmt: skip
    places, outside = np.array(where), np.isin(verdict, OUTSIDE)
    correct, rewards = np.array(verdict) == Verdict.CORRECT, np.array(reward)
    answers = []
    for number, benchmark in enumerate(benchmarks):
        mine = (places[:, 0] == number) & ~outside
        missing = len(benchmark.ids) - len(np.unique(places[mine, 1]))
        if missing:
            raise GradingError(f"{names[1]} left out all answers to {missing} problems")
        answers.append(Answers(len(benchmark.ids), places[mine, 1], rewards[mine], correct[mine],
                               None, None))  # fmt: skip
    return Second(
        first=names[0],
        name=names[1],
        reports={b.name: scores.report(a, seed) for b, a in zip(benchmarks, answers, strict=True)},
        overall=scores.report(scores.join(answers), seed),
        num_answers=len(where),
        differences=tuple(differences),
    )


def write(path: Path, second: Second) -> None:
    """Every difference as a JSON line; the file appears under its name only when whole."""
    storage.replace(path, "".join(json.dumps(row) + "\n" for row in second.differences))


def to_json(second: Second) -> dict[str, Any]:
    """Shares in [0, 1]."""
    return {
        "grader": second.name,
        "overall": second.overall.to_json(),
        "benchmarks": {name: report.to_json() for name, report in second.reports.items()},
        "answers": second.num_answers,
        "differences": len(second.differences),
    }


def to_markdown(
    second: Second, titles: dict[str, str], reports: dict[str, Report], overall: Report
) -> list[str]:
    """Lines: both graders' figures in percent, and the first answers on which they differ.

    Args:
      titles: of the benchmarks, by name.
      reports, overall: the first grader's figures.
    """
    first = second.first
    lines = ["", f"## The same answers by {second.name}", ""]
    lines += [f"| | {first}: Avg | Pass@k | {second.name}: Avg | Pass@k | differ |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    rows = [(titles[n], reports[n], second.reports[n], n) for n in reports]
    if len(rows) > 1:
        rows.append(("**all problems**", overall, second.overall, ""))
    for title, mine, theirs, name in rows:
        differ = sum(name in ("", row["benchmark"]) for row in second.differences)
        cells = [
            cell
            for report in (mine, theirs)
            for k in [max(report.pass_at)]
            for cell in (f"{100 * report.avg:.1f}", f"{100 * report.pass_at[k]:.1f} (k = {k})")
        ]
        lines += ["| " + " | ".join([title, *cells, f"{differ:,}"]) + " |"]
    count = len(second.differences)
    shown = f"; the first {SHOWN}:" if count > SHOWN else "."
    said = (
        f"They differ on {count:,} of {second.num_answers:,} answers, listed in differences.jsonl"
    )
    lines += ["", said + shown]
    if count:
        lines += ["", f"| problem | gold | answer | {first} | {second.name} |"]
        lines += ["| --- | --- | --- | --- | --- |"]
    for row in second.differences[:SHOWN]:
        cells = [f"{row['id']} #{row['sample']}", _code(row["gold"][0]), _code(row["answer"]),
                 row["first"], row["second"]]  # fmt: skip
        lines += ["| " + " | ".join(cells) + " |"]
    return lines


def _code(text: str) -> str:
    """A model's text, harmless in a table."""
    plain = "".join(c if c.isprintable() else " " for c in text)[:80]
    return "`" + plain.replace("`", "'").replace("|", r"\|") + "`"
