"""Allocators in which a prompt asks for itself: DARS, Reinforce-Ada, DAPO.  Exact and jittable.

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

Three more to compare with:

    "hw_half"       half of what "hw" asks for, geometrically: N sqrt(N / (2k)).  With advantages
                    divided by sqrt(a) the pull of a group is that of "hw", bought half by
                    sampling and half by weighting.
    "ada_positive"  Reinforce-Ada, positive-focused (arXiv 2510.04996): another round of
                    `round_size` while there is no correct rollout.
    "ada_balanced"  Reinforce-Ada, balanced: another round while there are fewer than K // 2
                    correct or fewer than K - K // 2 wrong rollouts, K = 4.

Reinforce-Ada's authors then keep K of a group's rollouts (`ada_kept`), with the mean of all as the
baseline; the trainer here lets all of them enter the update.  Their rounds have 8 rollouts, at
most 4 of them, which is n_max = 32.

The weighting only works if the loss is a plain sum over rollouts: averaging within a group takes
its size, and with it the allocation, away again.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dars_jax.allocator.checks import check_counts, check_sizes, check_whole, on_device
from dars_jax.allocator.integers import ceil_div, ceil_div_of_square, ceil_sqrt
from dars_jax.objective import group_members
from dars_jax.placement import spread_as

SCHEDULES = ("et", "hw", "hw_half", "ada_positive", "ada_balanced")
ADA_KEEP = 4  # K of Reinforce-Ada


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
      round_size: rollouts of a round of Reinforce-Ada; by default as many as a prompt has.

    Returns:
      int32[prompts], never negative; but for "ada_balanced" 0 where at least half are correct.

    Values are looked at where they are concrete; traced ones are taken as they come: above 1024
    the integers overflow, and n_max below num_sampled gives 0.

    Raises:
      ValueError: unknown schedule; counts that are not whole numbers (traced, too), are negative,
        or more correct than sampled; a num_sampled above its n_max or 1024; n_max or round_size
        that are not whole numbers, a round_size below 1; shapes that differ.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: expected one of {SCHEDULES}")
    check_counts(num_correct, num_sampled)
    check_sizes(num_sampled, n_max)
    if round_size is not None:
        check_whole("round_size", round_size, least=1)
    k, n, cap = on_device(num_correct), on_device(num_sampled), on_device(n_max)
    # Twice the counts are whole numbers also where k = 0 stands for k = 1/2.
    k2 = jnp.maximum(2 * k, 1)
    wrong2 = jnp.maximum(2 * n - k2, 1)  # 2 (N - k); the floor only serves N = 0
    if schedule == "et":
        # k2 * wrong2 = 4 k (N - k) <= N^2
        total = (
            ceil_sqrt(ceil_div_of_square(n * n, k2 * wrong2))
            if use_std
            else ceil_div(n * n * n, k2 * wrong2)
        )
    elif schedule == "hw_half":
        total = ceil_sqrt(ceil_div(n * n * n, k2))
    elif schedule in ("ada_positive", "ada_balanced"):
        few = k < (1 if schedule == "ada_positive" else ADA_KEEP // 2)
        if schedule == "ada_balanced":
            few |= n - k < ADA_KEEP - ADA_KEEP // 2
        total = n + few * (n if round_size is None else on_device(round_size))
    else:
        total = ceil_sqrt(ceil_div(n * n * wrong2, k2)) if use_std else ceil_div(n * n, k2)
    wanted = jnp.minimum(total, cap) - n
    may = (n > 0) if schedule == "ada_balanced" else (2 * k < n)
    return jnp.where(may, jnp.maximum(wanted, 0), 0).astype(jnp.int32)


def ada_kept(
    num_correct: ArrayLike, num_sampled: ArrayLike, keep: int = ADA_KEEP
) -> tuple[jax.Array, jax.Array]:
    """Right and wrong rollouts that Reinforce-Ada keeps of a group (arXiv 2510.04996).

    right = min(K // 2, all right), wrong = min(K - right, all wrong), and if wrong ones are too
    few, right ones fill up.

    Returns:
      (right int32[prompts], wrong int32[prompts]).

    Raises:
      ValueError: what are no counts, as in `top_up`.
    """
    check_counts(num_correct, num_sampled)
    k, n = on_device(num_correct), on_device(num_sampled)
    wrong = jnp.minimum(keep - jnp.minimum(keep // 2, k), n - k)
    return jnp.minimum(keep - wrong, k), wrong


def ada_mask(
    rewards: ArrayLike,
    group_ids: ArrayLike,
    num_groups: int,
    *,
    keep: int = ADA_KEEP,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """The rollouts that Reinforce-Ada keeps, first come first kept -> bool[rollouts].

    A rollout is right if its reward is above 0.7, as in their code.  Advantages are those of the
    whole group, by `objective.group_advantages`, times this.

    Args:
      rewards: float[rollouts].
      group_ids: int32[rollouts] in [0, num_groups), in any order; any other id is padding.
      num_groups: static.
      keep: K, rollouts kept of a group.
      mask: bool[rollouts]; False entries are padding, too, which is never kept.

    Raises:
      ValueError: as `objective.group_advantages`.
    """
    values, ids = group_members(rewards, group_ids, num_groups, mask)
    if not num_groups:
        return jnp.zeros(values.shape, bool)
    right, present = values > 0.7, ids < num_groups
    # Bins of one group's wrong and right rollouts, and one for padding: the place of a rollout in
    # its bin is its place in a stable sort, less the bin's beginning.
    bins = jnp.where(present, 2 * ids + right, 2 * num_groups)
    size = jax.ops.segment_sum(jnp.ones_like(bins), bins, 2 * num_groups + 1)
    order = jnp.argsort(bins, stable=True)
    begin = (jnp.cumsum(size) - size)[bins[order]]
    place = jnp.zeros_like(bins).at[order].set(jnp.arange(len(bins)) - begin)
    pairs = size[:-1].reshape(num_groups, 2)
    kept_right, kept_wrong = ada_kept(pairs[:, 1], pairs.sum(axis=1), keep)
    most = jnp.where(right, kept_right[ids], kept_wrong[ids])  # what padding reads is not used
    return spread_as(present & (place < most), jnp.asarray(rewards))


def dapo_keep(num_correct: ArrayLike, num_sampled: ArrayLike) -> jax.Array:
    """Prompts that dynamic sampling keeps (DAPO, arXiv 2503.14476): 0 < k < N -> bool[prompts].

    Raises:
      ValueError: what are no counts, as in `top_up`.
    """
    check_counts(num_correct, num_sampled)
    k, n = on_device(num_correct), on_device(num_sampled)
    return (k > 0) & (k < n)


def dapo_draw(num_kept: int, num_drawn: int, *, num_wanted: int, num_max: int) -> int:
    """How many new prompts dynamic sampling draws next, until num_wanted are kept.

    ceil(missing / share kept so far), at most twice as many as were drawn, and never more than
    num_max prompts in all.  The reference implementation draws whole batches and ends the run at
    its limit; this one ends the step with what there is, and its waste is bounded.
    """
    missing = max(num_wanted - num_kept, 0)
    if not num_drawn or not missing:
        return min(missing, num_max)
    guess = -(-missing * num_drawn // num_kept) if num_kept else 2 * num_drawn
    return max(min(guess, 2 * num_drawn, num_max - num_drawn), 0)
