"""One token per slot from its logits, exactly, without sorting a vocabulary of 152k.

Letters: S slots, V vocabulary.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from dars_jax.types import Array

_CHUNK = 128  # one TPU lane width; two levels of it cover any vocabulary in use


def sample(
    logits: jax.Array,
    uniform: jax.Array,
    temperature: Array,
    top_p: Array,
    top_k: Array,
    *,
    filters: bool,
) -> tuple[jax.Array, jax.Array]:
    """Samples from softmax(logits / temperature) by inverting its cumulative distribution.

    One uniform number per slot decides; temperature 0 takes the most likely token.  The
    log-probability is that of the distribution before any filter (at temperature 1 where the
    temperature is 0), which is what the trainer's forward pass computes too.

    Args:
      logits: float[S,V].
      uniform: float32[S] in [0, 1).
      temperature, top_p: float32[S].  top_p = 1 keeps everything.
      top_k: int32[S].  0 keeps everything.
      filters: static; False leaves top_p and top_k out of the program.

    Returns:
      (token int32[S], logprob float32[S])
    """
    greedy = temperature <= 0
    scaled = logits.astype(jnp.float32) / jnp.where(greedy, 1.0, temperature)[:, None]
    scaled = scaled - jnp.max(scaled, axis=-1, keepdims=True)
    weight = jnp.exp(scaled)  # [S,V], the largest is exactly 1
    log_total = jnp.log(jnp.sum(weight, axis=-1))
    allowed = weight
    if filters:
        asked = jnp.any((top_p < 1.0) | (top_k > 0))  # the bisection costs more than the rest
        allowed = jax.lax.cond(asked, lambda: _filter(weight, top_p, top_k), lambda: weight)
    drawn = _invert(allowed, uniform)
    token = jax.lax.cond(
        jnp.any(greedy), lambda: jnp.where(greedy, jnp.argmax(scaled, -1), drawn), lambda: drawn
    )
    chosen = jnp.take_along_axis(scaled, token[:, None], axis=-1)[:, 0]
    return token.astype(jnp.int32), chosen - log_total


def _invert(weight: jax.Array, uniform: jax.Array) -> jax.Array:
    """First index whose cumulative weight exceeds uniform * total -> int32[S].

    Chunk first, then inside the chunk: two short cumulative sums instead of one over V.  Where the
    vocabulary is split over devices only the sums of the chunks travel, [S,V/128]; nothing shifts
    along V, which would make devices of other replicas wait.
    """
    slots, vocab = weight.shape
    shards = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    width = math.gcd(vocab // shards, _CHUNK)  # no chunk lies on two devices
    width = width if width > 1 else vocab
    chunks = weight.reshape(slots, -1, width)
    mass = _whole(jnp.sum(chunks, axis=-1))  # [S,V/width]
    upto = jnp.cumsum(mass, axis=-1)
    goal = uniform * upto[:, -1]
    chunk = _first(upto > goal[:, None], mass > 0)
    at = lambda x: jnp.take_along_axis(x, chunk[:, None], axis=1)[:, 0]  # noqa: E731
    inside = _whole(jnp.take_along_axis(chunks, chunk[:, None, None], axis=1)[:, 0])  # [S,width]
    cumulative = (at(upto) - at(mass))[:, None] + jnp.cumsum(inside, axis=-1)
    return chunk * width + _first(cumulative > goal[:, None], inside > 0)


def _whole(x: jax.Array) -> jax.Array:
    """The array on every device of the tensor axis; outside a mesh the array itself."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def _first(passed: jax.Array, live: jax.Array) -> jax.Array:
    """Index of the first entry both passed and live, else of the last live one -> int32[S].

    A parallel cumulative sum may creep up by a rounding error where nothing is added, or end below
    the goal.  Only entries with mass can be drawn all the same.
    """
    index = jax.lax.broadcasted_iota(jnp.int32, live.shape, 1)
    size = live.shape[-1]
    first = jnp.min(jnp.where(passed & live, index, size), axis=-1)
    last = jnp.max(jnp.where(live, index, 0), axis=-1)
    return jnp.where(first < size, first, last)


def _filter(weight: jax.Array, top_p: Array, top_k: Array) -> jax.Array:
    """Zeroes what lies outside the nucleus or the k most likely; ties at the edge stay in.

    The largest threshold that still keeps enough is found by bisection on the bits of the floats:
    for positive numbers their order is that of the integers, so 31 halvings are exact.
    """
    vocab = weight.shape[-1]
    k = jnp.where(top_k > 0, jnp.minimum(top_k, vocab), vocab)[:, None]
    mass = jnp.minimum(top_p, 1.0)[:, None] * jnp.sum(weight, axis=-1, keepdims=True)

    def enough(threshold: jax.Array) -> tuple[jax.Array, jax.Array]:
        kept = weight >= threshold
        count = jnp.sum(kept, axis=-1, keepdims=True)
        return count >= k, jnp.sum(jnp.where(kept, weight, 0.0), -1, keepdims=True) >= mass

    def halve(_step: int, bounds: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        low_k, high_k, low_p, high_p = bounds
        mid_k, mid_p = (low_k + high_k + 1) // 2, (low_p + high_p + 1) // 2
        as_float = lambda bits: jax.lax.bitcast_convert_type(bits, jnp.float32)  # noqa: E731
        ok_k, _ = enough(as_float(mid_k))
        _, ok_p = enough(as_float(mid_p))
        return (
            jnp.where(ok_k, mid_k, low_k),
            jnp.where(ok_k, high_k, mid_k - 1),
            jnp.where(ok_p, mid_p, low_p),
            jnp.where(ok_p, high_p, mid_p - 1),
        )

    zero = jnp.zeros((weight.shape[0], 1), jnp.int32)
    one = jnp.full_like(zero, 0x3F800000)  # the bits of 1.0
    low_k, _, low_p, _ = jax.lax.fori_loop(0, 31, halve, (zero, one, zero, one))
    floor = jax.lax.bitcast_convert_type(jnp.maximum(low_k, low_p), jnp.float32)
    floor = jnp.where((top_p >= 1.0)[:, None] & (k >= vocab), 0.0, floor)
    return jnp.where(weight >= floor, weight, 0.0)
