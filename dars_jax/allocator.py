"""How many more rollouts does each prompt deserve?  The DARS allocation, exact and jittable.

The paper (arXiv 2508.13755, section 3.1) starts from a group's cumulative advantage: n rollouts
at accuracy a have sum |A| = n * S(a), with S = 2a(1-a), or S = 2 sqrt(a(1-a)) where advantages
are divided by the standard deviation.  GRPO therefore listens to prompts of medium accuracy.
DARS samples more for every prompt with a < 1/2, until n * S(a) reaches a target set by the peak
P = N * S(1/2) of the N rollouts seen so far:

    "et" (equal treatment)      n * S(a) = P
    "hw" (hardness weighted)    n * S(a) = 2 (1-a) P

Solved for n, with k of N correct (k = 0 is read as k = 1/2):

             without std              with std
    et       N^3 / (4 k (N-k))        N^2 / (2 sqrt(k (N-k)))
    hw       N^2 / (2 k)              N sqrt((N-k) / k)

rounded up.  The quotients are often whole numbers, where a float division lands just above or
below and the rounding goes wrong by one.  So everything here is int32 arithmetic: quotients by
integer division, square roots by comparing squares.  No intermediate exceeds 2^31 for N <= 1024.

Two more to compare with:

    "hw_half"       half of what "hw" asks for, geometrically: N sqrt(N / (2k)).  With advantages
                    divided by sqrt(a) the pull of a group is that of "hw", bought half by
                    sampling and half by weighting.
    "ada_positive"  Reinforce-Ada, positive-focused (arXiv 2510.04996): another round of
                    `round_size` while there is no correct rollout.  The authors then keep a few
                    of a group's rollouts; here all of them enter the update.

The weighting only works if the loss is a plain sum over rollouts: averaging within a group takes
its size, and with it the allocation, away again.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

SCHEDULES = ("et", "hw", "hw_half", "ada_positive")
MAX_GROUP = 1024  # N**3 and 2 * N**3 must stay below 2**31


def top_up(
    num_correct: ArrayLike,
    num_sampled: ArrayLike,
    *,
    schedule: str,
    n_max: ArrayLike,
    use_std: bool = False,
    round_size: ArrayLike | None = None,
) -> jax.Array:
    """Additional rollouts for each prompt, given the counts so far.

    Args:
      num_correct: int32[prompts], correct rollouts k of each prompt, 0 <= k <= num_sampled.
      num_sampled: int or int32[prompts], rollouts N so far, at most 1024.  A prompt with N = 0
        (padding) gets 0.
      schedule: one of SCHEDULES.
      n_max: cap on a prompt's rollouts in all, what it already has included.
      use_std: whether advantages are divided by the group's standard deviation; "et" and "hw" ask.
      round_size: rollouts of a round of "ada_positive"; by default as many as a prompt has.

    Returns:
      int32[prompts], never negative; 0 where at least half of the rollouts are correct.

    Raises:
      ValueError: unknown schedule, or a concrete num_sampled above n_max or 1024.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: expected one of {SCHEDULES}")
    _check_sizes(num_sampled, n_max)
    k = jnp.asarray(num_correct, jnp.int32)
    n = jnp.asarray(num_sampled, jnp.int32)
    # Twice the counts are whole numbers also where k = 0 stands for k = 1/2.
    k2 = jnp.maximum(2 * k, 1)
    wrong2 = jnp.maximum(2 * n - k2, 1)  # 2 (N - k); the floor only serves N = 0
    if schedule == "et":
        # k2 * wrong2 = 4 k (N - k) <= N^2
        total = (
            _ceil_sqrt(_ceil_div_of_square(n * n, k2 * wrong2))
            if use_std
            else _ceil_div(n * n * n, k2 * wrong2)
        )
    elif schedule == "hw_half":
        total = _ceil_sqrt(_ceil_div(n * n * n, k2))
    elif schedule == "ada_positive":
        total = jnp.where(k == 0, n + (n if round_size is None else jnp.asarray(round_size)), n)
    else:
        total = _ceil_sqrt(_ceil_div(n * n * wrong2, k2)) if use_std else _ceil_div(n * n, k2)
    wanted = jnp.minimum(total, n_max) - n
    return jnp.where(2 * k < n, jnp.maximum(wanted, 0), 0).astype(jnp.int32)


def _check_sizes(num_sampled: ArrayLike, n_max: ArrayLike) -> None:
    if isinstance(num_sampled, jax.core.Tracer) or np.size(num_sampled) == 0:
        return
    largest = int(np.max(num_sampled))
    if largest > MAX_GROUP:
        raise ValueError(f"num_sampled is {largest}; integers stay exact up to {MAX_GROUP}")
    if not isinstance(n_max, jax.core.Tracer) and np.min(n_max) < largest:
        raise ValueError(f"n_max is {n_max}, below the {largest} rollouts already sampled")


def _ceil_div(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """ceil(numerator / denominator) of int32 >= 0, without the overflow of adding first."""
    return numerator // denominator + (numerator % denominator > 0)


def _ceil_div_of_square(a: jax.Array, d: jax.Array) -> jax.Array:
    """ceil(a * a / d) for a <= 2**20 and 0 < d <= a + 1, though a * a needs 41 bits.

    Long division in base 1024: a * a = a * (q d + r), and r * a is divided digit by digit.
    """
    q, r = a // d, a % d
    high, low = a >> 10, a & 1023
    q_high, r_high = (r * high) // d, (r * high) % d
    return a * q + (q_high << 10) + _ceil_div((r_high << 10) + r * low, d)


def _ceil_sqrt(x: jax.Array) -> jax.Array:
    """Smallest int32 t >= 0 with t * t >= x.  The float root is off by at most one."""
    t = jnp.sqrt(x.astype(jnp.float32)).astype(jnp.int32)
    t = jnp.maximum(t - 2, 0)
    for _ in range(4):
        t = t + (t * t < x)
    return t
