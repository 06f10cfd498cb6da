"""Allocators that share a budget out: rollouts in proportion to a number per prompt.

Every rule takes the counts of prompts and gives their shares; `apportion` makes whole rollouts of
them.  Rules take the accuracy as the mean of a Beta posterior; the prior (0, 0) is the plain
frequency, as published.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dars_jax.allocator import chances, checks
from dars_jax.placement import gathered, spread_as

MAX_PROMPTS = 2**20  # sums of rollouts and of remainders stay below 2**31
_PARTS = 1024  # quotas are counted in 1/1024 of a rollout
_LARGEST = 0x7F7FFFFF  # the largest finite float32, by its bits


def uniform(num_correct: ArrayLike, num_sampled: ArrayLike) -> jax.Array:
    """n_i = B / P: everybody the same."""
    return jnp.ones(jnp.broadcast_shapes(jnp.shape(num_correct), jnp.shape(num_sampled)))


def gvm(
    num_correct: ArrayLike,
    num_sampled: ArrayLike,
    *,
    gradient_norms: ArrayLike = 1.0,
    alpha: float = 1e-3,
    beta: float = 2.0,
    prior: tuple[float, float] = (0, 0),
) -> jax.Array:
    """n_i ~ G_i / sqrt(a + alpha / a^(beta - 1)), 0 where a = 0 (GVM, arXiv 2505.02391).

    G_i are norms of the gradients of right answers; without them all are 1.
    """
    a = chances.accuracy(num_correct, num_sampled, prior)
    some = jnp.where(a > 0, a, 1)
    share = jnp.asarray(gradient_norms) / jnp.sqrt(some + alpha / some ** (beta - 1))
    return jnp.where(a > 0, share, 0)


def cures(
    num_correct: ArrayLike,
    num_sampled: ArrayLike,
    *,
    gradient_norms: ArrayLike = 1.0,
    prior: tuple[float, float] = (0, 0),
) -> jax.Array:
    """n_i ~ G_i sqrt(a (1-a)), the spread of a reward (CurES, arXiv 2510.01037).

    G_i are norms of gradients; without them all are 1.
    """
    a = chances.accuracy(num_correct, num_sampled, prior)
    return jnp.asarray(gradient_norms) * jnp.sqrt(a * (1 - a))


def ada_est(num_correct: ArrayLike, num_sampled: ArrayLike) -> jax.Array:
    """n_i ~ 1 / sqrt(a), published with n_min = 4, n_max = 32 (Reinforce-Ada v3, "Est").

    arXiv 2510.04996 has sqrt(a + epsilon); here k = 0 is read as k = 1/2, as in DARS, and nothing
    is added elsewhere.  Goes with advantages (r - mean) / sqrt(a): `advantage="ada_est"`.
    """
    k = jnp.maximum(jnp.asarray(num_correct, jnp.float32), 0.5)
    n = jnp.asarray(num_sampled, jnp.float32)
    return jnp.where(n > 0, jnp.sqrt(n / k), 0)


def apportion(shares: ArrayLike, low: ArrayLike, high: ArrayLike, total: ArrayLike) -> jax.Array:
    """Whole numbers in proportion to shares, within bounds, that sum to a total.

    The quotas clip(c * share, low, high) sum to the total for one c.  Their whole parts are given
    first, then one more each by largest remainder, ties in order of prompts.  Quotas are counted in
    1/1024, so from there on all is integer arithmetic, and the outcome is the same however prompts
    are spread over devices.

    Args:
      shares: float[prompts]; prompts with 0, or less, or NaN, get `low`.
      low, high: int32[prompts] or int, 0 <= low <= high <= 2**20; low gives way to high.
      total: int.

    Returns:
      int32[prompts].  The sum is `total`, unless the bounds make it more (all at `low`) or less
      (everybody with a share at `high`).

    Raises:
      ValueError: more than 2**20 prompts, bounds or a total that are no whole numbers, or a
        negative total.
    """
    checks.check_budget("total", total)
    checks.check_whole("low", low)
    checks.check_whole("high", high)
    asked = jnp.asarray(shares, jnp.float32)
    check_prompts(asked.size)
    shares, least, most = (gathered(x) for x in (asked, jnp.asarray(low), jnp.asarray(high)))
    high = jnp.broadcast_to(most.astype(jnp.int32), shares.shape)
    low = jnp.minimum(least.astype(jnp.int32), high)
    total = jnp.asarray(total, jnp.int32)

    def quotas(scale: jax.Array) -> jax.Array:
        wanted = jnp.clip(jnp.where(shares > 0, shares * scale, 0.0), low, high)
        return jnp.round(wanted * _PARTS).astype(jnp.int32)

    def affordable(scale: jax.Array) -> jax.Array:
        quota = quotas(scale)
        parts = jnp.sum(quota % _PARTS)
        return jnp.sum(quota // _PARTS) + (parts + _PARTS - 1) // _PARTS <= total

    def one_bit(i: jax.Array, bits: jax.Array) -> jax.Array:
        """Floats >= 0 are ordered as their bits: bisection ends at the largest scale there is."""
        more = bits | (1 << (30 - i))
        scale = jax.lax.bitcast_convert_type(more, jnp.float32)
        return jnp.where((more <= _LARGEST) & affordable(scale), more, bits)

    bits = jax.lax.fori_loop(0, 31, one_bit, jnp.int32(0))
    quota = quotas(jax.lax.bitcast_convert_type(bits, jnp.float32))
    whole, remainder = quota // _PARTS, quota % _PARTS
    may = (shares > 0) & (whole < high)
    given = whole + _first(may, remainder, jnp.maximum(total - jnp.sum(whole), 0))
    return spread_as(given, asked)


def check_prompts(count: int) -> None:
    """Refuses more prompts than int32 can sum the rollouts of."""
    if count > MAX_PROMPTS:
        raise ValueError(f"{count} prompts: a budget is shared among at most {MAX_PROMPTS}")


def _first(may: jax.Array, remainder: jax.Array, count: jax.Array) -> jax.Array:
    """1 for the `count` of those who may with the largest remainders, ties in order -> int32."""
    sizes = jax.ops.segment_sum(may.astype(jnp.int32), remainder, _PARTS)
    at_least = jnp.cumsum(sizes[::-1])[::-1]  # how many have this remainder or a larger one
    last = jnp.sum(at_least > count) - 1  # of this remainder only some get one; -1: everybody gets
    above = jnp.sum(may & (remainder > last))
    tied = may & (remainder == last)
    chosen = may & (remainder > last) | tied & (jnp.cumsum(tied) <= count - above)
    return chosen.astype(jnp.int32)
