"""How loud is a prompt?  The sum of |advantage| of its group, by its accuracy, for each method.

Measured on the answers of the base policy to the held-out problems: a group is drawn from them
without replacement, as if they were the rollouts of a step, and topped up as the method would.
Nothing is trained.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from dars_jax import allocator, objective
from dars_jax.study.resampling import Estimate, estimate

DRAWS = 200  # groups of every problem


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
)
# Edges of the accuracy bins; the first is the prompts that were never solved.
EDGES = (0.0, 1e-9, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def pull(
    correct: np.ndarray, num_samples: int, method: Method, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Expected sum of |A| and rollouts of each problem -> two float64[P].

    Args:
      correct: int64[P], right ones of `num_samples` answers, at least n_max of them.
    """
    rng = np.random.default_rng(seed)
    c = np.broadcast_to(correct, (DRAWS, len(correct)))
    k = rng.hypergeometric(c, num_samples - c, method.n_pre)
    more = np.zeros_like(k)
    if method.schedule != "none":
        more = np.asarray(
            allocator.top_up(k, method.n_pre, schedule=method.schedule, n_max=method.n_max)
        )
    right = k + rng.hypergeometric(c - k, num_samples - c - (method.n_pre - k), more)
    sampled = method.n_pre + more
    loud = objective.cumulative_advantage(
        jnp.asarray(right), jnp.asarray(sampled), advantage=method.advantage
    )
    return np.asarray(loud, np.float64).mean(0), sampled.mean(0)


def by_accuracy(
    correct: np.ndarray, num_samples: int, method: Method
) -> list[tuple[float, Estimate, float]]:
    """(mean accuracy, pull of a prompt with its interval, share of all pull) of each bin.

    Bins without a problem are left out.
    """
    loud, _ = pull(correct, num_samples, method)
    accuracy = correct / num_samples
    place = np.clip(np.digitize(accuracy, EDGES) - 1, 0, len(EDGES) - 2)
    return [
        (float(accuracy[mine].mean()), estimate(loud[mine][None]),
         float(loud[mine].sum() / max(loud.sum(), 1e-9)))
        for mine in (place == i for i in range(len(EDGES) - 1)) if mine.any()
    ]  # fmt: skip
