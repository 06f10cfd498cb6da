"""Advantages over ragged groups, and the clipped surrogate: arrays in, arrays out.

A group is all rollouts of one prompt, whatever stage they came from, so groups differ in size and
nothing here reshapes to [prompts, samples].

Every sum a loss needs is a sum over tokens of (weight x value) with weights known before the
first forward pass.  That is why splitting a batch into micro-batches, packing it, or spreading it
over devices cannot change the gradient: no part of the batch is ever averaged on its own.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dars_jax.placement import gathered, spread_as

ADVANTAGES = ("mean", "std", "rloo", "maxrl", "ada_est", "pkpo", "passk", "rs_grpo")
OF_K = ("pkpo", "passk")  # those in which k has a part
OF_BETA = ("rs_grpo",)
OF_ANY_REWARD = ("mean", "std", "rloo", "rs_grpo")  # negative ones too
OVERLONG = ("keep", "mask", "soft")
AGGREGATIONS = ("dr_grpo", "token_mean", "sequence_mean")


def group_sums(
    values: ArrayLike, group_ids: ArrayLike, num_groups: int, mask: ArrayLike | None = None
) -> jax.Array:
    """Sum of float[rollouts] within each group -> float32[num_groups].

    Ids and mask as in `group_advantages`.
    """
    values, ids = group_members(values, group_ids, num_groups, mask)
    return jax.ops.segment_sum(values, ids, num_groups)


def group_members(
    values: ArrayLike, group_ids: ArrayLike, num_groups: int, mask: ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    """(values float32[rollouts], ids int32[rollouts]); all padding has the id num_groups.

    Sums and extremes by segment leave that id out.

    Raises:
      ValueError: num_groups that is traced or no whole number, ids that are not, or shapes that
        differ.
    """
    whole = isinstance(num_groups, int | np.integer) and not isinstance(num_groups, bool)
    if not whole or num_groups < 0:
        what = "traced" if isinstance(num_groups, jax.core.Tracer) else repr(num_groups)
        raise ValueError(f"num_groups is {what}: give an int >= 0; it decides the result's shape")
    values, ids = jnp.asarray(values, jnp.float32), _narrow(group_ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"group_ids are {ids.dtype}: give the number of each rollout's group, int")
    if values.ndim != 1 or ids.shape != values.shape:
        raise ValueError(
            f"{values.shape} rollouts with {ids.shape} group_ids: give one id for each of a flat "
            "array; .reshape(-1) flattens [prompts, samples]"
        )
    mask = None if mask is None else jnp.asarray(mask)
    if mask is not None and mask.shape != values.shape:
        raise ValueError(f"{values.shape} rollouts with a mask of {mask.shape}: give one each")
    flat, known = _without_padding(values, ids, int(num_groups), mask)
    return flat, known


def _narrow(ids: ArrayLike) -> jax.Array:
    """Ids as int32, of which those beyond it are padding instead of wrapping around."""
    if not isinstance(ids, jax.Array) and np.size(ids) == 0:
        return jnp.zeros(np.shape(ids), jnp.int32)  # an empty list has floats
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu" and ids.dtype.itemsize > 4:
        ids = np.where((ids >= 0) & (ids < 2**31), ids, -1).astype(np.int32)
    narrow = jnp.asarray(ids)
    if not jnp.issubdtype(narrow.dtype, jnp.integer):
        return narrow
    if narrow.dtype.itemsize > 4:  # jax_enable_x64
        narrow = jnp.where((narrow >= 0) & (narrow < 2**31), narrow, -1)
    return narrow.astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=2)
def _without_padding(
    values: jax.Array, ids: jax.Array, num_groups: int, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """What `group_members` gives, once its arguments are known to be right."""
    real = (ids >= 0) & (ids < num_groups)
    if mask is not None:
        real &= mask.astype(bool)
    return gathered(values), gathered(jnp.where(real, ids, num_groups))


def group_advantages(
    rewards: ArrayLike,
    group_ids: ArrayLike,
    num_groups: int,
    *,
    advantage: str = "mean",
    k: int = 4,
    beta: float = 2.0,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """Advantage of each rollout within its group.  The first six are w * (reward - mean).

    "mean"     w = 1 (Dr. GRPO, arXiv 2503.20783)
    "std"      w = 1 / (std + 1e-6) with the sample standard deviation, n-1 in the denominator
               (GRPO, arXiv 2402.03300)
    "rloo"     w = n / (n-1), the reward less the mean of the others (arXiv 2402.14740): unbiased
    "maxrl"    w = 1 / mean (MaxRL, arXiv 2602.02710): the gradient of log p instead of p
    "ada_est"  w = 1 / sqrt(mean) (Reinforce-Ada with estimated difficulty, arXiv 2510.04996 v3,
               its epsilon left out)
    "passk"    w = x / (sqrt(rho (1-rho)) + 1e-6) with rho = 1 - C(n-c, k) / C(n, k), the chance
               that k of the rollouts have a right one, and x = C(n-c-1, k-1) / C(n-1, k-1)
               (Pass@k training, arXiv 2508.10751, its two cases in one)
    "pkpo"     C(n-c, k-1) / C(n, k) for a right rollout, 0 for a wrong one: what it adds to
               Pass@k beyond Pass@(k-1) of the others.  The sum over a group is unbiased for the
               gradient of Pass@k, once, where the others' grow with n (PKPO, arXiv 2505.15201)
    "rs_grpo"  (exp(beta (r - s)) - 1) / beta, s = log(mean exp(beta r)) / beta (RS-GRPO,
               arXiv 2509.24261): towards the best reward instead of the mean as beta grows

    c of a group's n rollouts are right.  "maxrl" and "ada_est" are for rewards that are not
    negative; a group whose mean is 0 gets 0.  "passk" and "pkpo" count a rollout as right if its
    reward is at least 1/2, and give 0 to a group of fewer than k.  A group of one and a group of
    equal rewards get exactly 0, but for "pkpo" with k = 1, which is 1 for a right rollout.

    Args:
      rewards: float[rollouts].
      group_ids: int32[rollouts] in [0, num_groups), in any order; any other id is padding.
      num_groups: static.
      advantage: one of ADVANTAGES.
      k: of Pass@k, static, in "passk" and "pkpo".
      beta: above 0, in "rs_grpo".
      mask: bool[rollouts]; False entries are padding, too: they belong to no group and get 0.

    Returns:
      float32[rollouts], on a mesh with Explicit axes spread as the rewards are.

    Raises:
      ValueError: unknown advantage; num_groups that is no int, ids that are not whole numbers, a
        k below 1, a beta that is not above 0, or shapes that differ.
    """
    _check_advantage(advantage, k, beta)
    values, ids = group_members(rewards, group_ids, num_groups, mask)
    result = _advantages(values, ids, int(num_groups), advantage, k, beta)
    return spread_as(result, jnp.asarray(rewards))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _advantages(
    rewards: jax.Array, ids: jax.Array, num_groups: int, advantage: str, k: int, beta: float
) -> jax.Array:
    """`group_advantages` of what `_members` gives; one program, so that a new size costs one."""
    if not num_groups:
        return jnp.zeros_like(rewards)
    real = ids < num_groups
    mine = jnp.minimum(ids, num_groups - 1)  # what padding reads there is not used

    def total(x: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(x, ids, num_groups)

    size = total(jnp.ones_like(rewards))
    if advantage in OF_K:
        right = rewards >= 0.5
        if_right, if_wrong = _advantages_by_count(total(right * 1.0), size, advantage, k, beta)
        return jnp.where(real, jnp.where(right, if_right[mine], if_wrong[mine]), 0.0)
    if advantage == "rs_grpo":
        best = jax.ops.segment_max(jnp.where(real, rewards, -jnp.inf), ids, num_groups)
        tilted = jnp.exp(beta * (rewards - best[mine]))
        mean = total(tilted) / jnp.maximum(size, 1)
        return jnp.where(real, (tilted / mean[mine] - 1) / beta, 0.0)
    mean = total(rewards) / jnp.maximum(size, 1)
    # Rounding must not take it out of the rewards' range: equal ones would differ from their mean.
    mean = jnp.clip(mean, *_extremes(rewards, ids, num_groups))
    centred = jnp.where(real, rewards - mean[mine], 0.0)
    if advantage == "std":
        variance = total(centred**2) / jnp.maximum(size - 1, 1)
        return centred * (1 / (jnp.sqrt(variance) + 1e-6))[mine]
    return centred * _weight(mean, size, advantage)[mine]


def _weight(mean: jax.Array, size: jax.Array, advantage: str) -> jax.Array:
    """The weight w of (reward - mean) that a group's mean and size decide -> float32[groups]."""
    if advantage == "mean":
        return jnp.ones_like(mean)
    if advantage == "rloo":
        return size / jnp.maximum(size - 1, 1)
    if advantage == "std":  # of the population, for 0/1 rewards
        return _inverse(jnp.sqrt(mean * (1 - mean)))
    return _inverse(mean if advantage == "maxrl" else jnp.sqrt(mean))


def _advantages_by_count(
    correct: jax.Array, size: jax.Array, advantage: str, k: int, beta: float
) -> tuple[jax.Array, jax.Array]:
    """Advantage of a right and of a wrong rollout of groups of 0/1 rewards, float32[groups]."""
    mean = correct / jnp.maximum(size, 1)
    if advantage == "rs_grpo":
        tilt = jnp.exp(-beta)
        average = mean + (1 - mean) * tilt
        return (1 / average - 1) / beta, (tilt / average - 1) / beta
    if advantage == "pkpo":
        value = k * _inverse(size) * _chance_of_wrong(size - 1, size - correct, k - 1)
        return value, jnp.zeros_like(value)
    if advantage == "passk":
        others_wrong = _chance_of_wrong(size - 1, size - correct - 1, k - 1)
        all_wrong = _chance_of_wrong(size, size - correct, k)
        weight = others_wrong / (jnp.sqrt(all_wrong * (1 - all_wrong)) + 1e-6)
    else:
        weight = _weight(mean, size, advantage)
    return weight * (1 - mean), -weight * mean


def _chance_of_wrong(size: jax.Array, wrong: jax.Array, k: int) -> jax.Array:
    """Chance that k drawn from a group are all wrong, C(wrong, k) / C(size, k); 0 if size < k."""
    chance = jnp.where(size >= k, 1.0, 0.0)
    factor = lambda j, x: x * jnp.maximum(wrong - j, 0) / jnp.maximum(size - j, 1)  # noqa: E731
    return jnp.asarray(jax.lax.fori_loop(0, k, factor, chance))


def _inverse(x: jax.Array) -> jax.Array:
    """1 / x, and 0 where x is not positive."""
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1.0), 0.0)


def _check_advantage(name: str, k: int, beta: float) -> None:
    if name not in ADVANTAGES:
        raise ValueError(f"unknown advantage {name!r}: expected one of {ADVANTAGES}")
    if name in OF_K and not (isinstance(k, int | np.integer) and k >= 1):
        raise ValueError(f"k is {k!r}: give a whole number of at least 1, the k of Pass@k")
    if name in OF_BETA and not isinstance(beta, jax.core.Tracer) and not beta > 0:
        raise ValueError(f"beta is {beta}: give a number above 0")


def overlong_penalty(lengths: ArrayLike, *, max_length: int, buffer: int) -> jax.Array:
    """What is added to the reward of a long answer -> float32[rollouts], from 0 to -1.

    0 up to max_length - buffer tokens, from there in a straight line to -1 at max_length (DAPO's
    soft overlong punishment, arXiv 2503.14476, eq. 13).

    Args:
      lengths: int32[rollouts], response tokens.
      max_length: longest possible response, in tokens.
      buffer: from 1 to max_length, tokens over which the penalty grows.
    """
    free = max_length - buffer
    return -jnp.clip((jnp.asarray(lengths, jnp.float32) - free) / buffer, 0, 1)


def has_signal(
    rewards: ArrayLike, group_ids: ArrayLike, num_groups: int, mask: ArrayLike | None = None
) -> jax.Array:
    """Groups whose rewards are not all the same -> bool[num_groups]; the others drop.

    For rewards of 0 and 1: the groups of accuracy strictly between 0 and 1.  Ids and mask as in
    `group_advantages`; a group of padding only has none.
    """
    values, ids = group_members(rewards, group_ids, num_groups, mask)
    return jnp.asarray(_differ(values, ids, int(num_groups)))


@functools.partial(jax.jit, static_argnums=2)
def _differ(values: jax.Array, ids: jax.Array, num_groups: int) -> jax.Array:
    """`has_signal` of what `group_members` gives."""
    lowest, highest = _extremes(values, ids, num_groups)
    return highest > lowest


def _extremes(values: jax.Array, ids: jax.Array, num_groups: int) -> tuple[jax.Array, jax.Array]:
    """(lowest, highest) value of each group -> float32[groups] each; inf and -inf of none."""
    lowest = jax.ops.segment_min(values, ids, num_groups)
    return lowest, jax.ops.segment_max(values, ids, num_groups)


def cumulative_advantage(
    num_correct: ArrayLike,
    num_sampled: ArrayLike,
    *,
    advantage: str = "mean",
    k: int = 4,
    beta: float = 2.0,
) -> jax.Array:
    """Sum of |A| over each group of 0/1 rewards: its pull -> float32[prompts].

    Where advantages are w * (reward - mean), this is n * S(a) (paper, section 2) with
    S = 2 a (1-a) w; "std" takes the population's, as the paper does.  The rest as in
    `group_advantages`.

    Raises:
      ValueError: as `group_advantages` about advantage, k and beta.
    """
    _check_advantage(advantage, k, beta)
    correct, size = jnp.asarray(num_correct, jnp.float32), jnp.asarray(num_sampled, jnp.float32)
    if_right, if_wrong = _advantages_by_count(correct, size, advantage, k, beta)
    return correct * jnp.abs(if_right) + (size - correct) * jnp.abs(if_wrong)


def token_weights(
    lengths: ArrayLike, kept: ArrayLike, *, aggregation: str, max_length: int
) -> jax.Array:
    """Weight of every response token of a rollout in the policy loss.

    "dr_grpo"        1 / (kept rollouts * max_length), a constant
    "token_mean"     1 / (response tokens of the kept rollouts)
    "sequence_mean"  1 / (kept rollouts * own length)

    Args:
      lengths: int32[rollouts], response tokens.
      kept: bool[rollouts], those that enter the loss.
      aggregation: one of AGGREGATIONS.
      max_length: longest possible response, in tokens.

    Returns:
      float32[rollouts]; 0 where not kept.

    Raises:
      ValueError: unknown aggregation, a max_length below 1, or shapes that differ.
    """
    lengths, kept = jnp.asarray(lengths, jnp.float32), jnp.asarray(kept, bool)
    if lengths.shape != kept.shape:
        raise ValueError(f"lengths of shape {lengths.shape}, kept {kept.shape}: give one of each")
    if not isinstance(max_length, jax.core.Tracer) and max_length < 1:
        raise ValueError(f"max_length is {max_length}: an answer has room for one token at least")
    rollouts = jnp.maximum(jnp.sum(kept.astype(jnp.float32)), 1)
    if aggregation == "dr_grpo":
        weight = jnp.full(lengths.shape, 1 / (rollouts * max_length))
    elif aggregation == "token_mean":
        tokens = jnp.maximum(jnp.sum(jnp.where(kept, lengths, 0.0)), 1)
        weight = jnp.full(lengths.shape, 1 / tokens)
    elif aggregation == "sequence_mean":
        weight = 1 / (rollouts * jnp.maximum(lengths, 1))
    else:
        raise ValueError(f"unknown aggregation {aggregation!r}: expected one of {AGGREGATIONS}")
    return jnp.where(kept, weight, 0.0)


def clipped_surrogate(
    logprob: jax.Array,
    old_logprob: jax.Array,
    advantage: jax.Array,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> tuple[jax.Array, jax.Array]:
    """PPO's pessimistic surrogate (arXiv 1707.06347, eq. 7), as a loss.

    max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)) with r = exp(logprob - old_logprob).  A ratio
    too large for float32 does no harm where the clip decides or A is 0.

    Args:
      logprob, old_logprob, advantage: float32[...], one shape.

    Returns:
      (loss float32[...], clipped bool[...]: where the clip decides and the gradient is 0).
    """
    # The branch that is not taken is left out before exp: the gradient of max has 0 * inf there.
    difference = jnp.where(advantage == 0, 0.0, logprob - old_logprob)
    ratio = jax.lax.stop_gradient(jnp.exp(difference))
    bounded = -advantage * jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    clipped = bounded > -advantage * ratio
    free = -advantage * jnp.exp(jnp.where(clipped, 0.0, difference))
    return jnp.where(clipped, bounded, free), clipped


def kl_penalty(logprob: jax.Array, reference_logprob: jax.Array) -> jax.Array:
    """Per-token estimate of KL(policy || reference): exp(d) - d - 1, d = reference - policy.

    Unbiased and never negative (the estimator GRPO uses, arXiv 2402.03300, eq. 4).
    """
    difference = reference_logprob - logprob
    return jnp.exp(difference) - difference - 1


def logprob_and_entropy(
    logits: jax.Array, targets: jax.Array, *, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target and entropy of its distribution, at a temperature.

    Args:
      logits: float[..., vocabulary].
      targets: int32[...].

    Returns:
      (logprob float32[...], entropy float32[...], in nats).
    """
    logits = logits.astype(jnp.float32) / temperature
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    shifted = logits - top
    exps = jnp.exp(shifted)
    total = jnp.sum(exps, axis=-1)
    log_total = jnp.log(total)
    # A comparison instead of a gather: it fuses, and works where the vocabulary is sharded.
    hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == targets[..., None]
    chosen = jnp.sum(jnp.where(hit, shifted, 0.0), axis=-1)
    entropy = log_total - jnp.sum(exps * shifted, axis=-1) / total
    return chosen - log_total, entropy
