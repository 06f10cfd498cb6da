"""Arms compared at the same prompts, the same rollouts or the same tokens.

A measure is a k (Pass@k on the held-out problems), "entropy" (nats per token, mean of the last
tenth of the steps) or "rollouts" (per prompt).
"""

import dataclasses

import numpy as np

from dars_jax.study.resampling import Estimate, estimate
from dars_jax.study.runs import Run

Measure = int | str
KS = (1, 8, 32, 128)  # of the tables


@dataclasses.dataclass(frozen=True)
class Budget:
    """So much of something that every arm may spend."""

    axis: str  # one of arms.AXES
    amount: float

    def __str__(self) -> str:
        return f"{self.amount:,.0f} {self.axis}"


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """Runs of several arms over the same seeds and problems."""

    runs: dict[str, tuple[Run, ...]]  # by name of the arm; every arm in the order of the seeds

    @property
    def baseline(self) -> str:
        """The arm whose cost sets the budgets: the first."""
        return next(iter(self.runs))

    def budget(self, axis: str, prompts: int) -> Budget:
        """What the baseline has spent after `prompts` prompts: the least of its seeds."""
        spent = [
            np.interp(prompts, run.spent("prompts"), run.spent(axis))
            for run in self.runs[self.baseline]
        ]
        return Budget(axis, float(min(spent)))

    def common(self, axis: str, *arms: str) -> Budget:
        """The most that every run of these arms has spent."""
        return Budget(axis, min(float(r.spent(axis)[-1]) for arm in arms for r in self.runs[arm]))

    def reaches(self, arm: str, budget: Budget) -> bool:
        """Whether the arm is there and every run of it has spent as much."""
        return arm in self.runs and all(r.reached(budget.axis, budget.amount)
                                        for r in self.runs[arm])  # fmt: skip

    def values(self, arm: str, measure: Measure, budget: Budget) -> np.ndarray:
        """The measure when the budget was spent -> float64[seeds, problems], or [seeds, 1]."""
        return np.array([_value(run, measure, budget) for run in self.runs[arm]])

    def level(self, arm: str, measure: Measure, budget: Budget) -> Estimate:
        """The arm's measure with its interval over seeds and problems."""
        return estimate(self.values(arm, measure, budget))

    def difference(self, arm: str, other: str, measure: Measure, budget: Budget) -> Estimate:
        """arm - other, every seed and problem compared with itself."""
        mine, theirs = (self.values(name, measure, budget) for name in (arm, other))
        seeds = min(len(mine), len(theirs))
        return estimate(mine[:seeds] - theirs[:seeds])

    def gain(self, arm: str, k: int, budget: Budget) -> Estimate:
        """Pass@k less that of the base policy."""
        before = np.array([run.pass_at(k)[0] for run in self.runs[arm]])
        return estimate(self.values(arm, k, budget) - before)


def _value(run: Run, measure: Measure, budget: Budget) -> np.ndarray:
    if isinstance(measure, int):
        return run.at(budget.axis, budget.amount, measure)
    steps = run.step_at(budget.axis, budget.amount)
    if measure == "rollouts":
        return run.column("num_rollouts")[:steps].sum(keepdims=True) / np.sum(
            run.column("num_prompts")[:steps]
        )
    last = run.column(measure)[max(steps - max(steps // 10, 1), 0) : steps]
    known = last[~np.isnan(last)]  # a step without a signal has no entropy
    return np.array([known.mean() if known.size else np.nan])
