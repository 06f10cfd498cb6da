"""Allocators that buy the most useful rollout next, exactly: Knapsack, HORA, VIP.

A rule says what the next rollout of a group gains, as a fraction of whole numbers.  The gains of a
prompt fall with every rollout, so buying the best one next, again and again, is optimal.

What a rollout gains depends on a prompt's counts only, and there are few of them: all rollouts that
could be bought are sorted once, on the host, by exact comparison.  On the device it remains to
count how many prompts stand at each entry of that list, and to find where a running sum crosses
the budget.  So a million prompts cost little more than a thousand, and no rounding enters.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dars_jax.placement import gathered, spread_as

# (correct, sampled, have, bought) -> (numerator, denominator): the gain of the next rollout of a
# group of `have`, `bought` of them on top of the `sampled` that are known.
GainRule: TypeAlias = Callable[[int, int, int, int], tuple[int, int]]


def hora(correct: int, sampled: int, have: int, bought: int) -> tuple[int, int]:
    """By how much another rollout lowers the chance that all miss (HORA, arXiv 2605.07114).

    Under the posterior Beta(k + 1, N - k + 1), m further rollouts all miss with chance
    miss(m) = prod over j < m of (N - k + 1 + j) / (N + 2 + j); the gain is miss(m) - miss(m + 1) =
    miss(m) (k + 1) / (N + 2 + m).
    """
    numerator, denominator = correct + 1, sampled + 2 + bought
    for j in range(bought):
        numerator *= sampled - correct + 1 + j
        denominator *= sampled + 2 + j
    return numerator, denominator


def knapsack(
    correct: int, sampled: int, have: int, bought: int, *, prior: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """By how much another rollout raises (1 - p^n - (1-p)^n) p (1-p)^2 (arXiv 2509.25849).

    The value of a group is the chance that it is useful times what a step gains then; the gain is
    (p^n (1-p) + (1-p)^n p) p (1-p)^2.  The published dynamic program is over the same objective,
    but credits nothing for the minimum of 2, so it can end below the optimum.  Prompts with p = 0
    or 1 gain nothing; they have what `n_min` gives them.  p = k / N, or the posterior mean.
    """
    right, wrong = correct + prior[0], sampled - correct + prior[1]
    useful = right**have * wrong + wrong**have * right
    return useful * right * wrong**2, (right + wrong) ** (have + 4)


def vip_rloo(
    correct: int, sampled: int, have: int, bought: int, *, prior: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """By how much another rollout lowers the gradient's variance under RLOO (VIP, 2602.01601).

    Sum of w_i / (n_i - 1), w = 4p (1-p): the gain is w / (n (n - 1)).  VIP solves
    n = 1 + sqrt(w / lambda) in real numbers, clips and rounds; this is the optimum in whole
    numbers.  VIP predicts p by a Gaussian process; here it is k / N, or the posterior mean.
    """
    right, wrong = correct + prior[0], sampled - correct + prior[1]
    return 4 * right * wrong, (right + wrong) ** 2 * have * (have - 1)


def vip_dr_grpo(
    correct: int, sampled: int, have: int, bought: int, *, prior: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """The same for advantages less the group's own mean: sum of w_i (n_i - 1) / n_i^2, n >= 3.

    The gain is w (n^2 - n - 1) / (n^2 (n+1)^2), which falls from n = 3 on.
    """
    right, wrong = correct + prior[0], sampled - correct + prior[1]
    gain = 4 * right * wrong * (have**2 - have - 1)
    return gain, (right + wrong) ** 2 * have**2 * (have + 1) ** 2


class PriceList(NamedTuple):
    """All rollouts that could be bought, the best first.  A cell is a pair (sampled, correct)."""

    start: np.ndarray  # int32[largest sampled + 1]: the cell of (sampled, 0), -1 where unknown
    low: np.ndarray  # int32[cells]: rollouts of a group before anything is bought
    cell: np.ndarray  # int32[entries]: who could buy it


@functools.lru_cache(maxsize=64)
def price_list(
    rule: GainRule, sizes: tuple[int, ...], n_min: int, n_max: int, fresh: bool
) -> PriceList:
    """Sorts the gains of all prompts that have sampled one of `sizes`.

    Equal gains are in the order of correct, then of sampled rollouts.  The time goes with
    len(sizes) * largest size * n_max.

    Raises:
      ValueError: gains that rise with a group's size, where greed would not be optimal.
    """
    start = np.full(max(sizes) + 1, -1, np.int32)
    low: list[int] = []
    fractions: list[tuple[int, int]] = []
    entries: list[tuple[int, int, int]] = []  # (correct, sampled, cell)
    for sampled in sizes:
        start[sampled] = len(low)
        held = 0 if fresh else sampled
        for correct in range(sampled + 1):
            cell, first = len(low), max(held, min(n_min, n_max))
            low.append(first)
            for have in range(first, n_max):
                numerator, denominator = rule(correct, sampled, have, have - held)
                if numerator <= 0:
                    break
                if have > first:
                    before = fractions[-1]
                    if numerator * before[1] > before[0] * denominator:
                        raise ValueError(
                            f"the gain of rollout {have + 1} of a group with {correct} of "
                            f"{sampled} right is above that of the one before"
                        )
                fractions.append((numerator, denominator))
                entries.append((correct, sampled, cell))
    # Two different fractions differ by more than 2^-(2 bits): so far the digits tell all apart.
    bits = 2 * max((d.bit_length() for _, d in fractions), default=0) + 1
    digits = [(a << bits) // b for a, b in fractions]
    order = sorted(range(len(entries)), key=lambda e: (-digits[e], *entries[e][:2]))
    return PriceList(
        start, np.array(low, np.int32), np.array([entries[e][2] for e in order], np.int32)
    )


def buy(
    prices: PriceList,
    num_correct: jax.Array,
    num_sampled: jax.Array,
    held: jax.Array,
    budget: jax.Array,
) -> jax.Array:
    """More rollouts of each prompt: int32[prompts] counts -> int32[prompts].

    Every prompt first has its floor, whatever the budget.  Of the last entry that is bought only
    some prompts may get theirs: those that come first.
    """
    start, low = jnp.asarray(prices.start), jnp.asarray(prices.low)
    asked = num_correct
    num_correct, num_sampled, held = map(gathered, (num_correct, num_sampled, held))
    real = num_sampled > 0
    cell = jnp.where(real, start[num_sampled] + num_correct, 0)
    floor = jnp.where(real, low[cell] - held, 0)
    budget = jnp.maximum(budget - jnp.sum(floor), 0)
    if not len(prices.cell):
        return spread_as(floor, asked)
    cells = len(prices.low)
    crowd = jax.ops.segment_sum(real.astype(jnp.int32), cell, cells)
    entry = jnp.asarray(prices.cell)
    spent = jnp.cumsum(crowd[entry])
    whole = spent <= budget  # true up to some entry: sums do not fall
    bought = jax.ops.segment_sum(whole.astype(jnp.int32), entry, cells)
    count = jnp.sum(whole)
    last = jnp.minimum(count, len(prices.cell) - 1)
    rest = jnp.where(count < len(prices.cell), budget - (spent[last] - crowd[entry[last]]), 0)
    some = real & (cell == entry[last])
    extra = some & (jnp.cumsum(some) <= rest)
    return spread_as(floor + jnp.where(real, bought[cell], 0) + extra, asked)
