"""How loud is a prompt?  The sum of |advantage| of its group, by its accuracy, for each method.

Expected over the groups that the method would draw, at the accuracies that the base policy has on
the held-out problems.  Nothing is trained.
"""

import dataclasses

import numpy as np

from dars_jax import objective
from dars_jax.allocator.expected import final_groups
from dars_jax.study.resampling import Estimate, estimate


@dataclasses.dataclass(frozen=True)
class Method:
    """How many rollouts a prompt gets, and how its advantages are weighted."""

    title: str
    schedule: str = "none"
    advantage: str = "mean"
    n_pre: int = 8
    n_max: int = 32


METHODS = (
    Method("GRPO"),
    Method("GRPO, n 32", n_pre=32),
    Method("DARS-ET", "et"),
    Method("DARS-HW", "hw"),
    Method("MaxRL", advantage="maxrl"),
    Method("half and half", "hw_half", "ada_est"),
)
# Edges of the accuracy bins; the first is the prompts that were never solved.
EDGES = (0.0, 1e-9, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def pull(accuracy: np.ndarray, method: Method) -> np.ndarray:
    """Expected sum of |A| of prompts of accuracy float64[P] -> float64[P]."""
    everyone = np.full(len(accuracy), 1 / len(accuracy))
    groups = final_groups(
        method.schedule, accuracy, everyone, num_pre=method.n_pre, n_max=method.n_max,
        budgets=() if method.schedule == "none" else (None,),
    )  # fmt: skip
    loud = objective.cumulative_advantage(
        groups.correct, groups.sampled, advantage=method.advantage
    )
    return groups.mean(np.asarray(loud))


def by_accuracy(accuracy: np.ndarray, method: Method) -> list[tuple[float, Estimate, float]]:
    """(mean accuracy, pull of a prompt with its interval, share of all pull) of each bin.

    Bins without a problem are left out.
    """
    loud = pull(accuracy, method)
    place = np.clip(np.digitize(accuracy, EDGES) - 1, 0, len(EDGES) - 2)
    return [
        (float(accuracy[mine].mean()), estimate(loud[mine][None]),
         float(loud[mine].sum() / max(loud.sum(), 1e-9)))
        for mine in (place == i for i in range(len(EDGES) - 1)) if mine.any()
    ]  # fmt: skip
