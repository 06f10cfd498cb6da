"""The policy loss of hidden states, with the head fused in so that logits never exist whole.

Letters: b rows, T tokens, D model width, V vocabulary, c tokens of a chunk.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dars_jax import objective, ratios


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Static settings of the loss."""

    temperature: float
    clip_low: float
    clip_high: float
    entropy_coef: float
    kl_coef: float
    surrogate: str = "clip"  # one of ratios.SURROGATES
    correction: str = "none"  # one of ratios.CORRECTIONS
    correction_low: float = 0.5  # of the ratio of trainer to sampler
    correction_cap: float = 2.0

    @property
    def by_sequence(self) -> bool:
        """Whether the loss of a token depends on its whole sequence."""
        return self.surrogate == "gspo" or self.correction == "sequence_mask"


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["loss", "entropy", "clipped", "kl", "bounded"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over tokens, which add up over micro-batches and devices."""

    loss: jax.Array  # float32[], already weighted
    entropy: jax.Array  # nats
    clipped: jax.Array  # tokens
    kl: jax.Array  # nats, policy against reference
    bounded: jax.Array  # tokens whose correction a bound decided

    @classmethod
    def zeros(cls) -> "Sums":
        return cls(*(jnp.zeros((), jnp.float32) for _ in dataclasses.fields(cls)))

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)


def _token_loss(
    logits: jax.Array, data: dict[str, Any], config: LossConfig
) -> tuple[jax.Array, tuple[Sums, jax.Array]]:
    """logits [b,c,V], data [b,c] each -> (loss, (Sums, logprob float32[b,c])).

    What stands at positions of weight 0, padding and prompts, is left out before any arithmetic:
    times 0 it would still be NaN where it is infinite.
    """
    weight = data["weight"]
    live = weight > 0
    of_live = lambda x: jnp.where(live, x, 0.0)  # noqa: E731
    own, entropy = map(
        of_live,
        objective.logprob_and_entropy(logits, data["target"], temperature=config.temperature),
    )
    old = jnp.where(data["first"], jax.lax.stop_gradient(own), of_live(data["old_logprob"]))
    entropy_sum = jnp.sum(entropy)
    correction, bounded_sum = jnp.ones(()), jnp.zeros(())
    logprob = own
    if config.correction != "none":
        difference = data.get("sequence_gap", old - data["sampler_logprob"])
        correction, bounded = ratios.correction(
            of_live(difference), kind=config.correction, low=config.correction_low,
            cap=config.correction_cap,
        )  # fmt: skip
        bounded_sum = jnp.sum(bounded, dtype=jnp.float32)
        # likewise for tokens that the correction leaves out
        logprob = jnp.where(correction > 0, own, jax.lax.stop_gradient(own))
    surrogate, clipped = ratios.surrogate(
        logprob, old, of_live(data["advantage"]), kind=config.surrogate, clip_low=config.clip_low,
        clip_high=config.clip_high, sequence_ratio=data.get("sequence_ratio"),
    )  # fmt: skip
    surrogate = jnp.where(correction > 0, correction * surrogate, 0.0)
    loss = jnp.sum(weight * surrogate) - data["entropy_weight"] * entropy_sum
    kl_sum = jnp.zeros(())
    if config.kl_coef:
        kl = objective.kl_penalty(own, of_live(data["reference_logprob"]))
        loss += config.kl_coef * jnp.sum(weight * kl)
        kl_sum = jnp.sum(kl)
    sums = Sums(loss, entropy_sum, jnp.sum(live & clipped, dtype=jnp.float32), kl_sum,
                bounded_sum)  # fmt: skip
    return loss, (jax.lax.stop_gradient(sums), jax.lax.stop_gradient(own))


def sequence_terms(
    logprob: jax.Array, arrays: dict[str, jax.Array], config: LossConfig
) -> dict[str, jax.Array]:
    """What the loss of a token has to know of its whole sequence -> float32[b,T] arrays.

    Args:
      logprob: float32[b,T], of the targets.
      arrays: of a micro-batch, see gradient.Passes.add_gradient.
    """
    live = arrays["weight"] > 0
    old = jnp.where(arrays["first"], logprob, arrays["old_logprob"])

    def total(x: jax.Array) -> jax.Array:
        return ratios.sequence_sums(x, arrays["group"], arrays["segment"], live)

    terms = {}
    if config.surrogate == "gspo":
        length = jnp.maximum(total(jnp.ones_like(logprob)), 1)
        terms["sequence_ratio"] = total(logprob - old) / length
    if config.correction == "sequence_mask":
        terms["sequence_gap"] = total(old - arrays["sampler_logprob"])
    return terms


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
    total: jax.Array | None,
    data: dict[str, Any],
    config: LossConfig,
    chunk: int,
) -> tuple[Sums, jax.Array, jax.Array, jax.Array | None]:
    """Loss of hidden [b,T,D] under the head [V,D], and its gradient, in chunks of c tokens a row.

    The gradient is taken while the logits are at hand, so that no second pass computes them again.

    Args:
      total: float32[V,D], to which the gradient of the head is added; None if the head is frozen.
      data: float or int [b,T] arrays and scalars, see `_token_loss`.

    Returns:
      (Sums, logprob float32[b,T], gradient of hidden, total)
    """
    per_token = {k: v for k, v in data.items() if jnp.ndim(v)}
    scalars = {k: v for k, v in data.items() if not jnp.ndim(v)}
    grad = jax.value_and_grad(_token_loss, has_aux=True)

    def body(carry: tuple[Sums, jax.Array | None], xs: Any) -> Any:
        sums, total = carry
        h, arrays = xs
        h = jnp.where(arrays["weight"][..., None] > 0, h, 0)  # see _token_loss
        logits = jnp.einsum("bcd,vd->bcv", h, head, preferred_element_type=jnp.float32)
        (_, (new, logprob)), d_logits = grad(logits, {**arrays, **scalars}, config)
        # Written once: fused into its products, which TPUs then compute again for every tile.
        d_logits = jax.lax.optimization_barrier(d_logits.astype(h.dtype))
        d_h = jnp.einsum("bcv,vd->bcd", d_logits, head)
        if total is None:
            return (sums + new, None), (d_h, logprob)
        d_head = jnp.einsum("bcd,bcv->dv", h, d_logits, preferred_element_type=jnp.float32)
        return (sums + new, total + d_head.T), (d_h, logprob)

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
