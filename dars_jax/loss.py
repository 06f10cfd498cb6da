"""The policy loss of one micro-batch, with the head fused in so that logits never exist whole.

Letters: b rows, T tokens, D model width, V vocabulary, c tokens of a chunk.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dars_jax import objective
from dars_jax.attention import Packing, packed_attention
from dars_jax.model import ModelConfig, Params, forward, head_matrix


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


def _chunk_loss(
    hidden: jax.Array, head: jax.Array, data: dict[str, Any], config: LossConfig
) -> tuple[jax.Array, tuple[Sums, jax.Array]]:
    """hidden [b,c,D], head [V,D], data [b,c] each -> (loss, (Sums, logprob float32[b,c]))."""
    logits = jnp.einsum("bcd,vd->bcv", hidden, head, preferred_element_type=jnp.float32)
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def head_loss(
    hidden: jax.Array, head: jax.Array, data: dict[str, Any], config: LossConfig, chunk: int
) -> tuple[jax.Array, tuple[Sums, jax.Array]]:
    """Loss of hidden [b,T,D] in chunks of c tokens of every row.

    The gradient with respect to the logits is taken chunk by chunk during the forward pass, while
    the logits are at hand, so the backward pass multiplies instead of computing them again.
    """
    return _head_loss_forward(hidden, head, data, config, chunk)[0]


def _head_loss_forward(
    hidden: jax.Array, head: jax.Array, data: dict[str, Any], config: LossConfig, chunk: int
) -> tuple[Any, Any]:
    per_token = {k: v for k, v in data.items() if jnp.ndim(v)}
    scalars = {k: v for k, v in data.items() if not jnp.ndim(v)}

    def split(x: jax.Array) -> jax.Array:  # [b,T,…] -> [T/c,b,c,…], no data leaves its row
        b, t, *rest = x.shape
        return jnp.moveaxis(x.reshape(b, t // chunk, chunk, *rest), 1, 0)

    def body(carry: Any, xs: Any) -> Any:
        loss, sums, d_head = carry
        h, arrays = xs
        grad = jax.value_and_grad(_chunk_loss, argnums=(0, 1), has_aux=True)
        (value, (new, logprob)), (d_h, d_w) = grad(h, head, {**arrays, **scalars}, config)
        return (loss + value, sums + new, d_head + d_w), (d_h, logprob)

    start = (jnp.zeros(()), Sums.zeros(), jnp.zeros(head.shape, jnp.float32))
    (loss, sums, d_head), (d_hidden, logprob) = jax.lax.scan(
        body, start, (split(hidden), jax.tree.map(split, per_token))
    )
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(*hidden.shape[:2], *x.shape[3:])  # noqa: E731
    return (loss, (sums, join(logprob))), (join(d_hidden), d_head.astype(head.dtype))


def _head_loss_backward(config: LossConfig, chunk: int, residuals: Any, cotangent: Any) -> Any:
    d_hidden, d_head = residuals
    g = cotangent[0]
    return (g * d_hidden).astype(d_hidden.dtype), (g * d_head).astype(d_head.dtype), None


head_loss.defvjp(_head_loss_forward, _head_loss_backward)


def micro_loss(
    params: Params,
    batch: dict[str, jax.Array],
    *,
    model_config: ModelConfig,
    config: LossConfig,
    chunk: int,
    dtype: jnp.dtype,
    remat: str,
) -> tuple[jax.Array, tuple[Sums, jax.Array]]:
    """Loss of one micro-batch [b,T]; also its sums, and the log-probs float32[b,T]."""
    packing = Packing(batch["group"], batch["segment"])
    hidden, _ = forward(params, model_config, batch["tokens"], batch["position"],
                        attention=packed_attention, state=packing, dtype=dtype,
                        remat=remat)  # fmt: skip
    names = ("target", "advantage", "weight", "sampler_logprob", "old_logprob",
             "reference_logprob", "first", "entropy_weight")  # fmt: skip
    data = {name: batch[name] for name in names if name in batch}
    return head_loss(hidden, head_matrix(params).astype(dtype), data, config, chunk)


def micro_logprob(
    params: Params,
    batch: dict[str, jax.Array],
    *,
    model_config: ModelConfig,
    temperature: float,
    chunk: int,
    dtype: jnp.dtype,
) -> jax.Array:
    """Log-probs of the targets of one micro-batch -> float32[b,T], without a gradient."""
    packing = Packing(batch["group"], batch["segment"])
    hidden, _ = forward(params, model_config, batch["tokens"], batch["position"],
                        attention=packed_attention, state=packing, dtype=dtype)  # fmt: skip
    head = head_matrix(params).astype(dtype)
    b, t, d = hidden.shape

    def body(_: None, xs: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        h, target = xs
        logits = jnp.einsum("bcd,vd->bcv", h, head, preferred_element_type=jnp.float32)
        return None, objective.logprob_and_entropy(logits, target, temperature=temperature)[0]

    h = jnp.moveaxis(hidden.reshape(b, t // chunk, chunk, d), 1, 0)
    target = jnp.moveaxis(batch["target"].reshape(b, t // chunk, chunk), 1, 0)
    _, logprob = jax.lax.scan(body, None, (h, target))
    return jnp.moveaxis(logprob, 0, 1).reshape(b, t)
