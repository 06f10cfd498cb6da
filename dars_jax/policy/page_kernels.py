"""Reading and writing pages on a TPU: transfers between HBM and VMEM, chosen one by one.

Letters: S slots, K key/value heads, G query heads of each, d head size, N pages, p tokens of a
page, M pages of a slot's table.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

_ROWS = 8  # tokens of the least piece of a page that a transfer can name


def read(
    q: jax.Array,
    key: jax.Array,
    value: jax.Array,
    table: jax.Array,
    length: jax.Array,
    pages_per_step: int,
) -> jax.Array:
    """Attention of scaled queries [S,H,d] over the first int32[S] positions of their tables.

    key, value [K,N,p,d]; table int32[S,M].  A slot of length 0 reads nothing and gets zeros.
    """
    s, h, d = q.shape
    kv = key.shape[0]
    # whole tiles of query heads spare the kernel a slower layout
    grouped = q.astype(jnp.float32).reshape(s, kv, h // kv, d)
    grouped = jnp.pad(grouped, ((0, 0), (0, 0), (0, -(h // kv) % _ROWS), (0, 0)))
    out = paged_attention(
        grouped.reshape(s, -1, d), key, value, length, table, pages_per_compute_block=pages_per_step
    )
    return out.reshape(grouped.shape)[:, :, : h // kv].reshape(s, h, d).astype(q.dtype)


def write(
    key: jax.Array, value: jax.Array, new_key: jax.Array, new_value: jax.Array, at: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """New tokens [S,K,d] into places int32[S] of the pages [K,N,p,d], in place.

    at: page * p + offset, no page twice; N * p or more writes nothing.  The piece of a page around
    each place is fetched, changed and sent back, all slots at once.
    """
    kv, count, size, d = key.shape
    slots = at.shape[0]
    page = jnp.minimum(at // size, count - 1)
    offset = jnp.where(at < count * size, at % size, -1)
    scalars, whole = pl.BlockSpec(memory_space=pltpu.SMEM), pl.BlockSpec(memory_space=pltpu.VMEM)
    hbm = pl.BlockSpec(memory_space=pl.ANY)
    piece = pltpu.VMEM((slots, kv, _ROWS, d), key.dtype)
    as_rows = lambda x: x.astype(jnp.float32)[:, :, None]  # noqa: E731
    return pl.pallas_call(
        _write_kernel,
        in_specs=[scalars, scalars, whole, whole, hbm, hbm],
        out_specs=(hbm, hbm),
        out_shape=(key, value),
        scratch_shapes=[piece, piece, pltpu.SemaphoreType.DMA],
        input_output_aliases={4: 0, 5: 1},
        name="write_pages",
    )(page, offset, as_rows(new_key), as_rows(new_value), key, value)


def _write_kernel(
    page: Any,
    offset: Any,
    new_key: Any,
    new_value: Any,
    _key: Any,
    _value: Any,
    key: Any,
    value: Any,
    key_piece: Any,
    value_piece: Any,
    done: Any,
) -> None:
    def each(act: Callable[[Any], None]) -> None:
        def one(s: Any, _: None) -> None:
            pl.when(offset[s] >= 0)(functools.partial(act, s))

        jax.lax.fori_loop(0, page.shape[0], one, None)

    def pairs(s: Any) -> list[tuple[Any, Any]]:
        rows = pl.ds(pl.multiple_of(offset[s] // _ROWS * _ROWS, _ROWS), _ROWS)
        return [
            (key.at[:, page[s], rows], key_piece.at[s]),
            (value.at[:, page[s], rows], value_piece.at[s]),
        ]

    def fetch(s: Any) -> None:
        for there, here in pairs(s):
            pltpu.make_async_copy(there, here, done).start()

    def send(s: Any) -> None:
        for new, piece in ((new_key, key_piece), (new_value, value_piece)):
            old = piece[s].astype(jnp.float32)  # [K,8,d]
            row = jax.lax.broadcasted_iota(jnp.int32, old.shape, 1)
            piece[s] = jnp.where(row == offset[s] % _ROWS, new[s], old).astype(piece.dtype)
        for there, here in pairs(s):
            pltpu.make_async_copy(here, there, done).start()

    def wait(s: Any) -> None:
        for there, here in pairs(s):
            pltpu.make_async_copy(there, here, done).wait()

    each(fetch)
    each(wait)  # for all: the semaphore counts bytes, not whose they are
    each(send)
    each(wait)
