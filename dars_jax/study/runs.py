"""What a run has left in its working directory, as arrays.

Letters: S steps, V evaluations, P held-out problems.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from dars_jax import passk
from dars_jax.records import storage

_COLUMNS = {"prompts": "num_prompts", "rollouts": "num_rollouts", "tokens": "tokens"}
COUNTS = "counts.json"  # right answers of every problem, where the answers themselves are gone


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run, as far as it has come."""

    settings: dict[str, Any]  # {"section.key": value}
    steps: tuple[dict[str, Any], ...]  # S lines of metrics.jsonl
    evaluated: np.ndarray  # int64[V], the step after which each evaluation was
    correct: np.ndarray  # int64[V,P]
    num_samples: int  # answers of each problem

    def column(self, name: str) -> np.ndarray:
        """A metric of every step -> float64[S], not-a-number where a step has none."""
        values = [line.get(name) for line in self.steps]
        return np.array([np.nan if v is None else v for v in values], np.float64)

    def spent(self, axis: str) -> np.ndarray:
        """Prompts, rollouts or tokens up to each evaluation -> float64[V]."""
        total = np.concatenate([[0.0], np.cumsum(self.column(_COLUMNS[axis]))])
        return total[self.evaluated]

    def pass_at(self, k: int) -> np.ndarray:
        """Pass@k of every problem at every evaluation -> float64[V,P]."""
        return _pass_at(self, k)

    def reached(self, axis: str, amount: float) -> bool:
        """Whether the run has spent as much by its last evaluation."""
        return bool(self.spent(axis)[-1] >= amount)

    def at(self, axis: str, amount: float, k: int) -> np.ndarray:
        """Pass@k of every problem when `amount` was spent -> float64[P].

        Between two evaluations it is drawn straight; a little less than the last is the last.
        """
        spent, values = self.spent(axis), self.pass_at(k)
        after = int(np.clip(np.searchsorted(spent, amount), 1, len(spent) - 1))
        low, high = spent[after - 1], spent[after]
        share = float(np.clip((amount - low) / (high - low), 0, 1))
        return (1 - share) * values[after - 1] + share * values[after]

    def step_at(self, axis: str, amount: float) -> int:
        """Number of steps after which `amount` was spent."""
        spent = np.cumsum(self.column(_COLUMNS[axis]))
        return min(int(np.searchsorted(spent, amount)) + 1, len(spent))


@functools.lru_cache(maxsize=4096)  # a run is compared with many others
def _pass_at(run: Run, k: int) -> np.ndarray:
    return passk.pass_at_k(np.array(run.num_samples), run.correct, k)


def read(workdir: Path) -> Run:
    """The run of a working directory.

    Raises:
      ValueError: it holds no run with two evaluations, or evaluations of different size.
    """
    for name in ("config.json", "metrics.jsonl"):
        if not (workdir / name).exists():
            raise ValueError(f"{workdir} holds no run of the trainer: {name} is missing")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    stems = [p.stem.removeprefix("step_") for p in (workdir / "eval").glob("step_*.json")]
    evaluated = sorted(int(stem) for stem in stems if stem.isdigit() and int(stem) <= len(lines))
    if len(evaluated) < 2:
        raise ValueError(
            f"{workdir} has {len(evaluated)} evaluations so far: a run has one before its first "
            "step and one after its last; the command that began it continues it"
        )
    known = _known(workdir)
    counts = [known.get(step) or _counted(workdir, step) for step in evaluated]
    sizes = {(n, len(correct)) for n, correct in counts}
    if len(sizes) > 1:
        found = ", ".join(f"{p} problems x {n}" for n, p in sorted(sizes))
        raise ValueError(f"evaluations of {workdir} differ in size: {found}")
    return Run(
        settings=json.loads((workdir / "config.json").read_text()),
        steps=tuple(map(json.loads, lines)),
        evaluated=np.array(evaluated),
        correct=np.array([correct for _, correct in counts]),
        num_samples=counts[0][0],
    )


def compact(workdir: Path) -> Run:
    """Reads a run; leaves of evaluations between the first and the last only what was right.

    The answers of an evaluation of 256 problems are 6 MB, what is kept of them 1 KB.
    """
    run = read(workdir)
    kept = {int(step): row.tolist() for step, row in zip(run.evaluated, run.correct, strict=True)}
    counts = json.dumps({"num_samples": run.num_samples, "correct": kept}) + "\n"
    storage.replace(workdir / "eval" / COUNTS, counts)
    for step in run.evaluated[1:-1]:
        answers(workdir, step).unlink(missing_ok=True)
    return run


def answers(workdir: Path, step: int) -> Path:
    """The file of all answers of an evaluation."""
    return workdir / "eval" / f"step_{step:06d}.jsonl"


def _known(workdir: Path) -> dict[int, tuple[int, list[int]]]:
    file = workdir / "eval" / COUNTS
    if not file.exists():
        return {}
    stored = json.loads(file.read_text())
    return {int(step): (stored["num_samples"], row) for step, row in stored["correct"].items()}


def _counted(workdir: Path, step: int) -> tuple[int, list[int]]:
    """(answers per problem, right ones of each) of an evaluation; answers are by problem."""
    summary = json.loads((workdir / "eval" / f"step_{step:06d}.json").read_text())
    file, problems = answers(workdir, step), summary["num_problems"]
    with file.open() as lines:
        right = np.array([json.loads(line)["verdict"] == "correct" for line in lines])
    if len(right) % problems:
        raise ValueError(f"{file} has {len(right):,} answers to {problems} problems")
    return len(right) // problems, right.reshape(problems, -1).sum(1).tolist()
