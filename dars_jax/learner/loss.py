"""The policy loss of hidden states, with the head fused in so that logits never exist whole.

Letters: b rows, T tokens, D model width, V vocabulary, c tokens of a chunk.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dars_jax import objective


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Static settings of the loss."""

    temperature: float
    clip_low: float
    clip_high: float
    entropy_coef: float
    kl_coef: float


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["loss", "entropy", "clipped", "kl", "gap", "gap_max"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over tokens, which add up over micro-batches; `gap_max` is a maximum."""

    loss: jax.Array  # float32[], already weighted
    entropy: jax.Array  # nats
    clipped: jax.Array  # tokens
    kl: jax.Array  # nats, policy against reference
    gap: jax.Array  # nats, |sampler's log-prob - ours|
    gap_max: jax.Array

    @classmethod
    def zeros(cls) -> "Sums":
        return cls(*(jnp.zeros((), jnp.float32) for _ in dataclasses.fields(cls)))

    def __add__(self, other: "Sums") -> "Sums":
        total = jax.tree.map(jnp.add, self, other)
        return dataclasses.replace(total, gap_max=jnp.maximum(self.gap_max, other.gap_max))

    def over_devices(self, axes: tuple[str, ...]) -> "Sums":
        """Sums of all devices along the mesh axes, inside shard_map."""
        total = jax.lax.psum(self, axes)
        return dataclasses.replace(total, gap_max=jax.lax.pmax(self.gap_max, axes))


def _token_loss(
    logits: jax.Array, data: dict[str, Any], config: LossConfig
) -> tuple[jax.Array, tuple[Sums, jax.Array]]:
    """logits [b,c,V], data [b,c] each -> (loss, (Sums, logprob float32[b,c]))."""
    logprob, entropy = objective.logprob_and_entropy(
        logits, data["target"], temperature=config.temperature
    )
    old = jnp.where(data["first"], jax.lax.stop_gradient(logprob), data["old_logprob"])
    surrogate, clipped = objective.clipped_surrogate(
        logprob, old, data["advantage"], clip_low=config.clip_low, clip_high=config.clip_high
    )
    weight = data["weight"]
    live = weight > 0
    entropy_sum = jnp.sum(jnp.where(live, entropy, 0.0))
    loss = jnp.sum(weight * surrogate) - data["entropy_weight"] * entropy_sum
    kl_sum = jnp.zeros(())
    if config.kl_coef:
        kl = objective.kl_penalty(logprob, data["reference_logprob"])
        loss += config.kl_coef * jnp.sum(weight * kl)
        kl_sum = jnp.sum(jnp.where(live, kl, 0.0))
    gap = jnp.where(live, jnp.abs(logprob - data["sampler_logprob"]), 0.0)
    sums = Sums(loss, entropy_sum, jnp.sum(live & clipped, dtype=jnp.float32), kl_sum,
                jnp.sum(gap), jnp.max(gap))  # fmt: skip
    return loss, (jax.lax.stop_gradient(sums), jax.lax.stop_gradient(logprob))


def _chunks(x: jax.Array, chunk: int) -> jax.Array:
    """[b,T,…] -> [T/c,b,c,…]: no data leaves its row."""
    b, t, *rest = x.shape
    return jnp.moveaxis(x.reshape(b, t // chunk, chunk, *rest), 1, 0)


def _joined(x: jax.Array) -> jax.Array:
    """[T/c,b,c,…] -> [b,T,…]."""
    n, b, chunk, *rest = x.shape
    return jnp.moveaxis(x, 0, 1).reshape(b, n * chunk, *rest)


def head_gradient(
    hidden: jax.Array,
    head: jax.Array,
    total: jax.Array,
    data: dict[str, Any],
    config: LossConfig,
    chunk: int,
) -> tuple[Sums, jax.Array, jax.Array, jax.Array]:
    """Loss of hidden [b,T,D] under the head [V,D], and its gradient, in chunks of c tokens a row.

    The gradient is taken while the logits are at hand, so that no second pass computes them again.

    Args:
      total: float32[V,D], to which the gradient of the head is added.
      data: float or int [b,T] arrays and scalars, see `_token_loss`.

    Returns:
      (Sums, logprob float32[b,T], gradient of hidden, total)
    """
    per_token = {k: v for k, v in data.items() if jnp.ndim(v)}
    scalars = {k: v for k, v in data.items() if not jnp.ndim(v)}
    grad = jax.value_and_grad(_token_loss, has_aux=True)

    def body(carry: tuple[Sums, jax.Array], xs: Any) -> Any:
        sums, total = carry
        h, arrays = xs
        logits = jnp.einsum("bcd,vd->bcv", h, head, preferred_element_type=jnp.float32)
        (_, (new, logprob)), d_logits = grad(logits, {**arrays, **scalars}, config)
        d_logits = d_logits.astype(h.dtype)
        d_h = jnp.einsum("bcv,vd->bcd", d_logits, head)
        d_head = jnp.einsum("bcv,bcd->vd", d_logits, h, preferred_element_type=jnp.float32)
        return (sums + new, total + d_head), (d_h, logprob)

    (sums, total), (d_hidden, logprob) = jax.lax.scan(
        body, (Sums.zeros(), total),
        (_chunks(hidden, chunk), {k: _chunks(v, chunk) for k, v in per_token.items()}),
    )  # fmt: skip
    return sums, _joined(logprob), _joined(d_hidden), total


def head_logprob(
    hidden: jax.Array, head: jax.Array, target: jax.Array, temperature: float, chunk: int
) -> jax.Array:
    """Log-probs float32[b,T] of the targets int32[b,T] under hidden [b,T,D] and the head [V,D]."""

    def body(_: None, xs: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        h, target = xs
        logits = jnp.einsum("bcd,vd->bcv", h, head, preferred_element_type=jnp.float32)
        return None, objective.logprob_and_entropy(logits, target, temperature=temperature)[0]

    _, logprob = jax.lax.scan(body, None, (_chunks(hidden, chunk), _chunks(target, chunk)))
    return _joined(logprob)
