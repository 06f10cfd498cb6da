"""What an allocator does to prompts of a given accuracy, in closed form: no sampling.

A prompt of accuracy p goes from (N, k) to (N + more, k + j) with the chance of j successes among
`more`.  Summed over Binomial(N, p), and over later stages in the same way, this gives the exact
chance of every group it can end with, and with it the expected number of rollouts, the chance of a
useful group, or the mean of anything else that a group's counts decide.
"""

import dataclasses
import functools
from collections import defaultdict

import jax
import numpy as np

from dars_jax.allocator import chances
from dars_jax.allocator.registry import ALLOCATORS, Allocator, allocate
from dars_jax.allocator.sharing import apportion

CROWD = 2**17  # prompts of the population in which a budget is shared out


@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups that prompts end with, and how likely each is."""

    accuracy: np.ndarray  # float64[prompts], p
    sampled: np.ndarray  # int64[groups]
    correct: np.ndarray  # int64[groups]
    chance: np.ndarray  # float64[groups, prompts]; each column sums to 1
    num_pre: int  # N

    def mean(self, value: np.ndarray) -> np.ndarray:
        """Expected value of float[groups] -> float64[prompts]."""
        return np.asarray(np.asarray(value, np.float64) @ self.chance)

    @property
    def rollouts(self) -> np.ndarray:
        """Expected rollouts of a prompt, float64[prompts]."""
        return self.mean(self.sampled)

    @property
    def useful(self) -> np.ndarray:
        """Chance of a group with right and wrong rollouts, float64[prompts]."""
        return self.mean((self.correct > 0) & (self.correct < self.sampled))

    @property
    def rescued(self) -> np.ndarray:
        """Chance that the first N are all wrong and a later rollout is right, float64[prompts]."""
        blank = (1 - self.accuracy) ** self.num_pre
        return np.asarray(blank - self.mean(self.correct == 0))


def final_groups(
    allocator: str | Allocator,
    accuracy: np.ndarray,
    share: np.ndarray,
    *,
    num_pre: int,
    n_max: int,
    budgets: tuple[float | None, ...] = (None,),
) -> Groups:
    """The groups after N pre-rollouts and a stage of top-ups per budget.

    Args:
      allocator: a name in ALLOCATORS, or one of your own.
      accuracy: float[prompts], p of each kind of prompt.
      share: float[prompts], how much of the population it is; sums to 1.  It matters only where a
        budget is shared out: the population is then taken to be large.
      num_pre: N.
      n_max: cap on a group.
      budgets: of each stage of top-ups, further rollouts per prompt; None is what prompts ask for.
    """
    p, share = np.asarray(accuracy, np.float64), np.asarray(share, np.float64)
    chance = chances.binomial(num_pre, p)[num_pre]
    states = {(num_pre, k): chance[k] for k in range(num_pre + 1)}
    draws = chances.binomial(max(n_max - num_pre, 0), p)
    for budget in budgets:
        counts = np.array(list(states))
        mass = np.array([c @ share for c in states.values()])
        more = _mean_top_ups(allocator, counts[:, 1], counts[:, 0], mass, n_max, budget)
        later: defaultdict[tuple[int, int], np.ndarray] = defaultdict(lambda: np.zeros(len(p)))
        for ((n, k), chance), wanted in zip(states.items(), more, strict=True):
            # prompts with the same counts differ by one rollout at most: the last that was bought
            for size, part in (int(wanted), 1 - wanted % 1), (int(wanted) + 1, wanted % 1):
                for right in range(size + 1) if part else ():
                    later[n + size, k + right] += part * chance * draws[size][right]
        states = dict(later)
    counts = np.array(list(states))
    return Groups(p, counts[:, 0], counts[:, 1], np.stack(list(states.values())), num_pre)


def _mean_top_ups(
    allocator: str | Allocator, correct: np.ndarray, sampled: np.ndarray, mass: np.ndarray,
    n_max: int, budget: float | None,
) -> np.ndarray:  # fmt: skip
    """Mean further rollouts of the prompts of each state -> float64[states]."""
    rule = ALLOCATORS[allocator] if isinstance(allocator, str) else allocator
    if budget is None:
        return np.asarray(allocate(rule, correct, sampled, n_max=n_max), np.float64)
    crowd = np.asarray(apportion(mass.astype(np.float32), 0, CROWD, CROWD))
    # ties go by the order of prompts, which has nothing to do with their counts
    state = np.random.default_rng(0).permutation(np.repeat(np.arange(len(mass)), crowd))
    run = jax.jit(functools.partial(allocate, rule, n_max=n_max))
    more = run(correct[state], sampled[state], budget=round(budget * len(state)))
    total = np.bincount(state, np.asarray(more), minlength=len(mass))
    return np.asarray(total / np.maximum(crowd, 1))
