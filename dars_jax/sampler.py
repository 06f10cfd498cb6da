"""One token per slot from its logits, exactly, without sorting a vocabulary of 152k.

Letters: S slots, V vocabulary.
"""

import jax
import jax.numpy as jnp

_CHUNK = 128  # one TPU lane width; two levels of it cover any vocabulary in use


def sample(
    logits: jax.Array,
    uniform: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
    top_k: jax.Array,
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
    allowed = _filter(weight, top_p, top_k) if filters else weight
    token = jnp.where(greedy, jnp.argmax(scaled, axis=-1), _invert(allowed, uniform))
    chosen = jnp.take_along_axis(scaled, token[:, None], axis=-1)[:, 0]
    return token.astype(jnp.int32), chosen - log_total


def _invert(weight: jax.Array, uniform: jax.Array) -> jax.Array:
    """First index whose cumulative weight exceeds uniform * total -> int32[S].

    Chunk first, then inside the chunk: two short cumulative sums instead of one over V.
    """
    slots, vocab = weight.shape
    pad = -vocab % _CHUNK
    chunks = jnp.pad(weight, ((0, 0), (0, pad))).reshape(slots, -1, _CHUNK)
    upto = jnp.cumsum(jnp.sum(chunks, axis=-1), axis=-1)  # [S,V/128]
    goal = uniform * upto[:, -1]
    # Rounding may leave the goal at or above the last sum; the last chunk with mass is meant.
    last = jnp.argmax(upto >= upto[:, -1:], axis=-1)
    chunk = jnp.minimum(jnp.sum(upto <= goal[:, None], axis=-1), last)
    inside = jnp.take_along_axis(chunks, chunk[:, None, None], axis=1)[:, 0]  # [S,128]
    before = jnp.where(
        chunk > 0, jnp.take_along_axis(upto, jnp.maximum(chunk - 1, 0)[:, None], axis=1)[:, 0], 0.0
    )
    cumulative = before[:, None] + jnp.cumsum(inside, axis=-1)
    # `live` keeps tokens of probability 0 out, also where the sums above do not quite agree.
    live = inside > 0
    passed = live & (cumulative > goal[:, None])
    final = _CHUNK - 1 - jnp.argmax(live[:, ::-1], axis=-1)
    offset = jnp.where(jnp.any(passed, axis=-1), jnp.argmax(passed, axis=-1), final)
    return chunk * _CHUNK + offset


def _filter(weight: jax.Array, top_p: jax.Array, top_k: jax.Array) -> jax.Array:
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

    def halve(_: int, bounds: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
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
