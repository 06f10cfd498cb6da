"""What ratios of probabilities do to the loss of a token, and what steers its entropy bonus.

Two ratios meet in a token.  That of the policy to the policy before the update decides the
surrogate.  That of the trainer to the sampler, at the same weights, is 1 but for rounding; a
correction weights tokens by it, and `gap` says how far it is from 1.

Letters: b rows, T tokens.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dars_jax.objective import clipped_surrogate

SURROGATES = ("clip", "gspo", "cispo")
CORRECTIONS = ("none", "truncate", "token_mask", "sequence_mask")
# Published caps of the ratio, taken where none is set.
CAPS = {"none": float("inf"), "truncate": 2.0, "token_mask": 5.0, "sequence_mask": 3.0}
FAR = float(np.log(2))  # nats; a token beyond it has half or twice the probability


def surrogate(
    logprob: jax.Array,
    old_logprob: jax.Array,
    advantage: jax.Array,
    *,
    kind: str,
    clip_low: float,
    clip_high: float,
    sequence_ratio: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The loss of each token before its weight.

    "clip"   PPO's, see `objective.clipped_surrogate`; clip_high above clip_low is DAPO's
             asymmetric clip (arXiv 2503.14476, eq. 8)
    "gspo"   the same with the ratio of the whole sequence, s = exp(mean of logprob - old_logprob),
             in every token (GSPO-token, arXiv 2507.18071, eq. 13): the gradient of a token's
             log-prob is weighted by s.  With aggregation "sequence_mean" this is GSPO itself,
             eq. 5.  Published clips are 3e-4 and 4e-4
    "cispo"  -A stop_gradient(clip(r, 1 - clip_low, 1 + clip_high)) logprob with
             r = exp(logprob - old_logprob): the weight is clipped, and no token loses its gradient
             (MiniMax-M1, arXiv 2506.13585, eq. 4); clip_low = 1 leaves out the lower bound, as
             published

    Args:
      logprob, old_logprob, advantage: float32[...], one shape.
      kind: one of SURROGATES.
      sequence_ratio: float32[...], log s of the sequence of each token, a constant; "gspo" only.

    Returns:
      (loss float32[...], clipped bool[...]: where a bound decides).

    Raises:
      ValueError: unknown kind, or "gspo" without sequence_ratio.
    """
    if kind == "cispo":
        ratio = jax.lax.stop_gradient(jnp.exp(logprob - old_logprob))
        bounded = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
        return -advantage * bounded * logprob, bounded != ratio
    if kind == "gspo":
        if sequence_ratio is None:
            raise ValueError("surrogate 'gspo' needs sequence_ratio: see sequence_sums")
        logprob = sequence_ratio + (logprob - jax.lax.stop_gradient(logprob))
        old_logprob = jnp.zeros_like(logprob)
    elif kind != "clip":
        raise ValueError(f"unknown surrogate {kind!r}: expected one of {SURROGATES}")
    return clipped_surrogate(
        logprob, old_logprob, advantage, clip_low=clip_low, clip_high=clip_high
    )


def correction(
    difference: jax.Array, *, kind: str, low: float, cap: float
) -> tuple[jax.Array, jax.Array]:
    """Weight of a token for what the sampler did not compute as the trainer does.

    With w = exp(difference), the ratio of trainer to sampler at the weights of the sampling:

    "truncate"       min(w, cap), per token (TIS, Yao et al. 2025, "Your efficient RL framework
                     secretly brings you off-policy RL training"; cap 2)
    "token_mask"     w where low <= w <= cap, else 0, per token (IcePop, Ling team 2025; 0.5 and 5)
    "sequence_mask"  w of the whole sequence, the product over its tokens, where w <= cap, else 0
                     (TRL's default; cap 3)

    All are exactly 1 where the difference is 0.

    Args:
      difference: float32[...], trainer's log-prob less the sampler's, of the token, or in
        "sequence_mask" its sum over the sequence; see `sequence_sums`.
      kind: one of CORRECTIONS but "none".

    Returns:
      (weight float32[...], bounded bool[...]: where it is not w).

    Raises:
      ValueError: unknown kind.
    """
    ratio = jnp.exp(difference)
    if kind == "truncate":
        return jnp.minimum(ratio, cap), ratio > cap
    if kind == "token_mask":
        outside = (ratio < low) | (ratio > cap)
    elif kind == "sequence_mask":
        outside = ratio > cap
    else:
        raise ValueError(f"unknown correction {kind!r}: expected one of {CORRECTIONS[1:]}")
    return jnp.where(outside, 0.0, ratio), outside


def sequence_sums(
    values: jax.Array, group: jax.Array, segment: jax.Array, live: jax.Array
) -> jax.Array:
    """Sum over the sequence that a token of a packed row belongs to -> float32[b,T].

    A sequence is a run of equal (group, segment); it never leaves its row.

    Args:
      values: float32[b,T].
      group, segment: int32[b,T], see types.UpdateBatch.
      live: bool[b,T]; other tokens add nothing.
    """
    begins = (jnp.diff(group, prepend=0) != 0) | (jnp.diff(segment, prepend=0) != 0)
    index = jnp.cumsum(begins, axis=1)  # of the sequence in its row, at most T

    def row(values: jax.Array, index: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(values, index, len(values) + 1)[index]

    return jax.vmap(row)(jnp.where(live, values, 0.0), index)


def entropy_control(
    coefficient: jax.Array, entropy: jax.Array, *, target: float, step: float
) -> jax.Array:
    """The coefficient of the entropy bonus after an update whose mean entropy was `entropy`.

    It rises by `step` below the target and falls by it above, down to 0; the bonus is given only
    while the last entropy is at or below the target (adaptive entropy control of Skywork-OR1,
    arXiv 2505.22312; there the entropy is that of the rollouts, here that of the optimizer step
    before, which is known before the first micro-batch).
    """
    return jnp.maximum(coefficient + jnp.where(entropy < target, step, -step), 0.0)


def gap(trainer: jax.Array, sampler: ArrayLike, live: ArrayLike) -> dict[str, jax.Array]:
    """How far the sampler's log-probs are from the trainer's at the same weights.

    Args:
      trainer, sampler: float32[...], log-probs of the sampled tokens, one shape.
      live: bool[...], tokens that count.

    Returns:
      float32[] each: `logprob_gap`, the mean |difference| in nats, `logprob_gap_max`, its largest,
      and `logprob_gap_share`, the share of tokens in which it is above FAR; 0 without tokens.
    """
    difference = jnp.where(live, jnp.abs(trainer - sampler), 0.0)
    tokens = jnp.maximum(jnp.sum(live, dtype=jnp.float32), 1)
    return {
        "logprob_gap": jnp.sum(difference) / tokens,
        "logprob_gap_max": jnp.max(difference),
        "logprob_gap_share": jnp.sum(difference > FAR, dtype=jnp.float32) / tokens,
    }
