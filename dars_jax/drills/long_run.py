"""A run of many small steps: does anything grow, or is anything compiled again?

    python -m dars_jax.drills.long_run --steps 2000

launch/tpu_run.py trains the embedded policy with DARS-B in this process: 8 prompts a step, a
checkpoint every 20 steps (two are kept), an evaluation every 200, and the journal.  After every
step it is counted what the process holds.  Prints a JSON line for each twentieth of the run, with
the least that was held after any of its steps: a save or a request under way comes and goes, what
leaks is always there.  Exits with 1 if in the last of them resident memory is more than 5 % above
the third, or if there are more compiled programs, live arrays, open files, threads, processes, or
files in the temporary and the working directory than in any from the third to the tenth.
`resizes` are programs that copy decode slots to another number of them, compiled when that is met
for the first time, and no fault.  Needs a checkout, for launch/.
"""

import argparse
import collections
import functools
import json
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from dars_jax.commands import cli
from dars_jax.drills.soak import Compilations, resident_mb
from dars_jax.records.metrics import MetricsLog

REPO = Path(__file__).resolve().parents[2]
LINES = 20
LEAST_STEPS = 20 * LINES  # so that every line sees a checkpoint, after which journals are dropped
EARLY = slice(2, LINES // 2)  # lines that the last is compared with
RESIZE = "jit(resize)"
MOST_GROWTH = 0.05  # of resident memory
SETTINGS = {
    "rollout.num_prompts": 8, "rollout.n_pre": 4, "rollout.n_max": 16, "rollout.slots": 64,
    "learner.micro_batch_rows": 8, "eval.num_samples": 2, "eval.every": 200,
    "checkpoint.every": 20, "checkpoint.keep": 2,
}  # fmt: skip


def _files(directory: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(directory))


def _children() -> int:
    """Processes that this one, or one of its threads, has started and that are still there."""
    lists = Path("/proc/self/task").glob("*/children")
    return sum(len(path.read_text().split()) for path in lists)


def held(workdir: Path, compilations: Compilations) -> dict[str, float]:
    """What this process holds now; Linux.

    Of the working directory evaluations are left out, which are meant to stay.
    """
    live = jax.live_arrays()
    return {
        "resident_mb": round(resident_mb(), 1),
        "live_arrays": len(live),
        "live_bytes": sum(x.nbytes for x in live),
        "programs": compilations.count - compilations.by_name[RESIZE],
        "resizes": compilations.by_name[RESIZE],
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": _children(),
        "temporary_files": _files(Path(tempfile.gettempdir())),
        "workdir_files": _files(workdir) - _files(workdir / "eval"),
    }


def faults(lines: Sequence[Mapping[str, float]]) -> list[str]:
    """What has grown between the early lines, after the warm-up, and the last."""
    early, last = lines[EARLY], lines[-1]
    wrong = []
    for key in sorted(last.keys() - {"step", "seconds", "resizes"}):
        if key == "resident_mb":
            before, most = early[0][key], early[0][key] * (1 + MOST_GROWTH)
        else:
            before = most = max(line[key] for line in early)
        if last[key] > most:
            wrong.append(f"{key}: {before:,} by step {early[-1]['step']:,}, {last[key]:,} at the "
                         "end")  # fmt: skip
    return wrong


def _watch(workdir: Path, steps: int, lines: list[dict[str, float]]) -> None:
    """Has every line of metrics followed by a count, and a JSON line for each of LINES parts."""
    compilations, begin = Compilations(), time.perf_counter()
    least: dict[str, float] = collections.defaultdict(lambda: float("inf"))

    def counting(old: Callable) -> Callable:
        @functools.wraps(old)
        def write(self: MetricsLog, step: int, values: dict) -> None:
            old(self, step, values)
            for key, value in held(workdir, compilations).items():
                least[key] = min(least[key], value)
            if step * LINES % steps < LINES:
                line = {"step": step, **least, "seconds": round(time.perf_counter() - begin, 1)}
                lines.append(line)
                print(json.dumps(line), flush=True)
                least.clear()

        return write

    MetricsLog.write = counting(MetricsLog.write)  # type: ignore[method-assign]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2_000, help=f"at least {LEAST_STEPS}")
    steps = parser.parse_args().steps
    if steps < LEAST_STEPS:
        parser.error(f"--steps {steps} is less than {LEAST_STEPS}")
    lines: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as root:
        workdir, tempfile.tempdir = Path(root) / "run", str(Path(root) / "tmp")
        Path(tempfile.tempdir).mkdir()
        _watch(workdir, steps, lines)
        settings = SETTINGS | {"train.num_steps": steps}
        sys.argv = [
            str(REPO / "launch" / "tpu_run.py"), "--config", str(REPO / "configs" / "dars_b.py"),
            "--workdir", str(workdir), *(f"--config.{k}={v}" for k, v in settings.items()),
        ]  # fmt: skip
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            if end.code:
                cli.fail(f"the run ended with exit code {end.code}", 1)
    wrong = faults(lines)
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
