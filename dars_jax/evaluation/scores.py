"""The figures of an evaluation: Avg@n and Pass@k with intervals, from graded answers.

Pure functions of numpy arrays.  N answers to P problems, whose numbers of answers may differ.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dars_jax import passk


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """Graded answers to the problems of one benchmark, in any order."""

    num_problems: int
    problem: np.ndarray  # int64[N], below num_problems; every problem has at least one answer
    reward: np.ndarray  # float64[N], in [0, 1], of a sum any number
    correct: np.ndarray  # bool[N], what Pass@k counts
    length: np.ndarray | None  # int64[N], tokens; None where nobody counted
    truncated: np.ndarray | None  # bool[N], stopped by the length limit; None likewise
    parts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """float64[N] each: the rewards that a sum adds up, by name."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Figures of one set of problems.  Shares and rewards lie in [0, 1]."""

    num_problems: int
    num_samples: int  # answers per problem; of the problem with fewest where they differ
    avg: float  # Avg@n, mean over problems of the mean reward; Pass@1 where rewards are 0 and 1
    pass_at: dict[int, float]  # k -> Pass@k
    pass_interval: dict[int, tuple[float, float]]  # 95 % bootstrap intervals over problems
    response_length: float | None  # mean tokens of an answer
    truncated_share: float | None
    rewards: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of a sum: the mean over problems of the mean of each reward, by name."""

    def summary(self) -> str:
        """One line; the mean reward is in it where it is not Pass@1."""
        ks = [f"Pass@{k} {v:.3f}" for k, v in self.pass_at.items()]
        other = abs(self.avg - self.pass_at[1]) > 1e-6
        return "  ".join([f"reward {self.avg:.3f}"] * other + ks)

    def to_json(self) -> dict[str, Any]:
        """JSON-friendly values."""
        return dataclasses.asdict(self)


def powers_up_to(n: int) -> list[int]:
    """1, 2, 4, … and n itself."""
    ks = [2**i for i in range(n.bit_length()) if 2**i <= n]
    return ks if ks[-1] == n else [*ks, n]


def pass_values(answers: Answers, k: int) -> np.ndarray:
    """Pass@k of every problem -> float64[P]."""
    sampled = np.bincount(answers.problem, minlength=answers.num_problems)
    correct = np.bincount(answers.problem, answers.correct, minlength=answers.num_problems)
    return passk.pass_at_k(sampled, correct.astype(int), k)


@dataclasses.dataclass(frozen=True)
class Gain:
    """What changed in Pass@k between two evaluations of the same problems."""

    k: int
    before: float
    after: float
    interval: tuple[float, float]  # 95 %, of after - before


def gain(before: Answers, after: Answers, k: int, seed: int) -> Gain:
    """Pass@k before and after; a bootstrap over problems of their differences, each with itself.

    Raises:
      ValueError: another number of problems, or fewer than k answers to one.
    """
    if before.num_problems != after.num_problems:
        raise ValueError(f"{before.num_problems} problems before, {after.num_problems} after")
    old, new = pass_values(before, k), pass_values(after, k)
    interval = passk.bootstrap_interval(new - old, seed=seed)
    return Gain(k, float(old.mean()), float(new.mean()), interval)


def report(answers: Answers, seed: int) -> Report:
    """The figures; Pass@k for k up to the fewest answers of any problem.

    Every problem weighs the same, however many answers it has: over the joined answers of several
    benchmarks this is the micro average.

    Args:
      seed: of the bootstrap.

    Raises:
      ValueError: no problems, or a problem without an answer.
    """
    problems = answers.num_problems
    sampled = np.bincount(answers.problem, minlength=problems)
    if not problems or not sampled.all():
        raise ValueError(f"{int(np.sum(sampled == 0))} of {problems} problems have no answer")
    mean_of = lambda x: np.bincount(answers.problem, x, minlength=problems) / sampled  # noqa: E731
    fewest = int(sampled.min())
    values = {k: pass_values(answers, k) for k in powers_up_to(fewest)}
    return Report(
        num_problems=problems,
        num_samples=fewest,
        avg=float(mean_of(answers.reward).mean()),
        pass_at={k: float(v.mean()) for k, v in values.items()},
        pass_interval={k: passk.bootstrap_interval(v, seed=seed) for k, v in values.items()},
        response_length=None if answers.length is None else float(answers.length.mean()),
        truncated_share=None if answers.truncated is None else float(answers.truncated.mean()),
        rewards={name: float(mean_of(part).mean()) for name, part in answers.parts.items()},
    )


def join(parts: Sequence[Answers]) -> Answers:
    """Answers of several benchmarks, or of pieces of one, as one set of problems."""
    offset = np.cumsum([0, *(part.num_problems for part in parts)])
    known = lambda name: all(getattr(part, name) is not None for part in parts)  # noqa: E731
    whole = lambda name: np.concatenate([getattr(part, name) for part in parts])  # noqa: E731
    return Answers(
        num_problems=int(offset[-1]),
        problem=np.concatenate([p.problem + o for p, o in zip(parts, offset[:-1], strict=True)]),
        reward=whole("reward"),
        correct=whole("correct"),
        length=whole("length") if known("length") else None,
        truncated=whole("truncated") if known("truncated") else None,
        parts={name: np.concatenate([p.parts[name] for p in parts]) for name in parts[0].parts},
    )
