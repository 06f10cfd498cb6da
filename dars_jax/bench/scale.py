"""What costs grow with: parts of a step against their size, each size in a process of its own.

    python -m dars_jax.bench scale > scale.jsonl
    python -m dars_jax.bench scale --what step hosts --sizes 2 8 --repeats 3
    python -m dars_jax.bench scale --read scale.jsonl

`python -m dars_jax.bench.scale WHAT SIZE REPEATS` is one point.  What each measures is in
scale_runs.py and scale_parts.py; docs/scale.md has figures.  Times are the least of `--repeats`,
which other programs disturbed least; `others_cores` says how busy those were.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dars_jax.bench import scale_parts
from dars_jax.bench.work import show, simulated, versions


@dataclasses.dataclass(frozen=True)
class Measure:
    """A cost, and what it may grow with."""

    run: Callable[[Any, int], dict[str, Any]]  # of a size and repeats -> fields of the line
    over: str  # what the sizes are
    sizes: tuple[int | str, ...]
    simulates: bool = False  # as many devices as the size says


def _step(prompts: int, repeats: int) -> dict[str, Any]:
    from dars_jax.bench import scale_runs  # the trainer, which the other benchmarks do without

    return scale_runs.step(prompts, repeats)


def _hosts(processes: int, repeats: int) -> dict[str, Any]:
    from dars_jax.bench import scale_runs

    return scale_runs.hosts(processes, repeats)


MEASURES = {
    "step": Measure(_step, "prompts", (32, 128, 512, 1024, 3072)),
    "slots": Measure(scale_parts.slots, "slots", (16, 32, 64, 128, 256, 512, 1024)),
    "replicas": Measure(scale_parts.replicas, "replicas", (1, 2, 4, 8), simulates=True),
    "hosts": Measure(_hosts, "processes", (1, 2, 4, 8)),
    "scheduler": Measure(scale_parts.scheduler, "prompts", (512, 1024, 3072, 12288)),
    "allocators": Measure(scale_parts.decide, "prompts", (10**2, 10**3, 10**4, 10**5, 10**6)),
    "assemble": Measure(scale_parts.assemble, "rollouts", (3072, 12288, 49152)),
    "grade": Measure(scale_parts.grade, "answers", (2048, 8192, 32768, 196608)),
    "checkpoint": Measure(
        scale_parts.checkpoint, "policy", ("tiny", "small", "qwen2.5-math-7b")
    ),
}  # fmt: skip


def point(what: str, size: int | str, repeats: int) -> dict[str, Any]:
    """The line of one size, measured in a process of its own.

    `others_cores` is how many of the machine's cores other programs took in the meantime.

    Raises:
      subprocess.CalledProcessError: it failed; standard error has said why.
    """
    environment = simulated(int(size)) if MEASURES[what].simulates else dict(os.environ)
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    begin, busy, ours = time.monotonic(), _busy(), _children()
    done = subprocess.run(
        [sys.executable, "-m", "dars_jax.bench.scale", what, str(size), str(repeats)],
        stdout=subprocess.PIPE, text=True, check=True, env=environment,
    )  # fmt: skip
    others = (_busy() - busy - _children() + ours) / (time.monotonic() - begin)
    (line,) = (json.loads(x) for x in done.stdout.splitlines() if x.startswith("{"))
    return line | {"others_cores": max(others, 0.0)}


def _busy() -> float:
    """CPU-seconds that all programs together have used; Linux."""
    user, nice, system, _, _, irq, soft, *_ = Path("/proc/stat").read_text().split()[1:]
    return sum(map(int, (user, nice, system, irq, soft))) / os.sysconf("SC_CLK_TCK")


def _children() -> float:
    """CPU-seconds of the processes that this one has started, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine() -> dict[str, Any]:
    """Where and when."""
    names = [x.partition(":")[2].strip() for x in Path("/proc/cpuinfo").read_text().splitlines()
             if x.startswith("model name")]  # fmt: skip
    return {
        "what": "machine", "cpu": names[0] if names else platform.machine(), "cores": len(names),
        "load": os.getloadavg()[0], "date": str(datetime.date.today()), "versions": versions(),
    }  # fmt: skip


def table(what: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a column for each size, a row for each field."""
    fields = dict.fromkeys(k for line in lines for k in line if k not in ("what", "of", "size"))
    rows = [[MEASURES[what].over, *(_shown(line["size"]) for line in lines)]]
    rows.append(["---"] * len(rows[0]))
    for field in fields:
        values = [_shown(line[field]) if field in line else "" for line in lines]
        rows.append([field.replace("_", " "), *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


def tables(lines: Iterable[Mapping[str, Any]]) -> str:
    """A table of each measure that there are lines of; of a size that was measured twice the last.

    Raises:
      ValueError: there are none.
    """
    found: dict[str, dict[Any, Mapping[str, Any]]] = {}
    for line in lines:
        if line.get("what") == "scale":
            found.setdefault(line["of"], {})[line["size"]] = line
    if not found:
        raise ValueError("no lines of `bench scale`")
    return "\n\n".join(f"{what}:\n\n{table(what, list(of.values()))}" for what, of in found.items())


def measured(what: Sequence[str], sizes: Sequence[str], repeats: int) -> Iterator[dict[str, Any]]:
    """A line for each point, and first one of the machine.

    Args:
      sizes: none are those of each measure.
    """
    yield machine()
    for name in what:
        for size in sizes or MEASURES[name].sizes:
            yield {"what": "scale", "of": name, **point(name, size, repeats)}


def bench_scale(args: argparse.Namespace) -> None:
    """Prints lines as they are measured, or tables of them all.

    Raises:
      ValueError: the file that is to be read holds no such lines.
    """
    if args.read:
        print(tables(json.loads(x) for x in args.read.read_text().splitlines()))
        return
    lines = []
    for line in measured(args.parts or [*MEASURES], args.sizes, args.repeats):
        lines.append(line)
        if not args.markdown:
            show(line)
    if args.markdown:
        print(tables(lines))


def main(what: str, size: str, repeats: str) -> None:
    """One point, in this process."""
    count = int(size) if size.isdecimal() else size
    show({"size": count, **MEASURES[what].run(count, int(repeats))})


if __name__ == "__main__":
    main(*sys.argv[1:])
