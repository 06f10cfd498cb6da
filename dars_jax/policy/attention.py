"""How tokens see each other: packed rows for training, prompts for prefill, a cache for decoding.

Letters: B rows, T tokens, S decode slots, C cache positions, H query heads, K key/value heads,
d head size, G = H / K query heads per key/value head, c positions of a block of keys, N pages,
p tokens of a page, M pages of a slot.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask
from jax.sharding import PartitionSpec

from dars_jax.policy import page_kernels

_MASKED = -1e30  # finite: a row that sees nothing must give numbers, not NaN
_QUERY_BLOCK = 72  # tokens


class Packing(NamedTuple):
    """Which tokens of a packed row belong together.

    Tokens of one group share its prompt, stored once as segment 0; segments 1, 2, … are the
    group's rollouts in this row.  A token sees its own segment and its group's segment 0, up to
    itself.  Group 0 is padding.
    """

    group: jax.Array  # int32[B,T]
    segment: jax.Array  # int32[B,T]


class LayerCache(NamedTuple):
    """One layer's keys and values of all slots; index = position, stale entries lie above it."""

    key: jax.Array  # [S,K,C/c,d,c]: blocks of few positions, which CPUs read twice as fast as one
    value: jax.Array  # [S,K,C,d]


class Pages(NamedTuple):
    """One layer's keys and values of all slots and prefixes."""

    key: jax.Array  # [K,N,p,page_width(d)]
    value: jax.Array  # [K,N,p,page_width(d)]


class PageView(NamedTuple):
    """Where each slot's keys and values lie."""

    table: jax.Array  # int32[S,M], all valid pages
    length: jax.Array  # int32[S], positions to read, the new token's included; 0 when idle
    at: jax.Array  # int32[S], page * p + offset of the new token; N * p or more when idle


def packed_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, packing: Packing
) -> tuple[jax.Array, None]:
    """Causal attention inside packed rows, by masked matrices.

    Queries go in a few blocks, each against the keys up to its own end: what the causal mask would
    hide from a whole block is never computed.
    """
    group, segment = packing
    length = q.shape[1]
    count = next(n for n in range(min(-(-length // _QUERY_BLOCK), 8), 0, -1) if length % n == 0)
    index, size = jnp.arange(length), length // count
    out = []
    for end in range(size, length + 1, size):
        rows, keys = slice(end - size, end), slice(end)
        visible = index[rows, None] >= index[None, keys]
        visible &= group[:, rows, None] == group[:, None, keys]
        own = segment[:, rows, None] == segment[:, None, keys]
        visible &= own | (segment[:, None, keys] == 0)
        out.append(_attend(q[:, rows], k[:, keys], v[:, keys], visible))
    return checkpoint_name(jnp.concatenate(out, axis=1), "attended"), None


_LANES = 128  # splash attention's blocks are multiples of a vector register's width


def page_width(head_dim: int) -> int:
    """Features that a page has for each head: whole vector registers."""
    return -(-head_dim // _LANES) * _LANES


def fill_lanes(x: jax.Array) -> jax.Array:
    """[…,d] -> […,page_width(d)], zeros behind what was there."""
    more = page_width(x.shape[-1]) - x.shape[-1]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)]) if more else x


def splash_fits(row_tokens: int, head_dim: int) -> bool:
    """Whether `splash_attention` can handle rows of this length and heads of this size."""
    return row_tokens % _LANES == 0 and head_dim % _LANES == 0


def splash_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, packing: Packing, *, interpret: bool = False
) -> tuple[jax.Array, None]:
    """Causal attention inside packed rows by a TPU kernel that never writes scores to memory.

    The kernel knows equality of ids only, so every group of a row must be one sequence: a prompt
    and a single rollout, as `batch.assemble` lays them out with `share_prompt=False`.

    Args:
      interpret: run the kernel as plain JAX, for tests on other hardware.
    """
    kernel = _splash_kernel(q.shape[2], q.shape[1], interpret)
    q = (q * q.shape[-1] ** -0.5).astype(q.dtype)
    heads_first = lambda x: jnp.transpose(x, (0, 2, 1, 3))  # noqa: E731
    ids = splash.SegmentIds(packing.group, packing.group)
    out = jax.vmap(kernel)(*map(heads_first, (q, k, v)), ids)
    return heads_first(out), None


def _splash_kernel(num_heads: int, length: int, interpret: bool) -> splash.SplashAttentionKernel:
    mask = splash_attention_mask.CausalMask((length, length))
    block = functools.partial(_block, length)
    sizes = splash.BlockSizes(
        block_q=block(1024), block_kv=block(1024), block_kv_compute=block(512),
        block_q_dkv=block(1024), block_kv_dkv=block(2048), block_kv_dkv_compute=block(512),
        use_fused_bwd_kernel=True,
    )  # fmt: skip
    return splash.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * num_heads), block_sizes=sizes,
        head_shards=1, q_seq_shards=1, residual_checkpoint_name="attended", interpret=interpret,
    )  # fmt: skip


def _block(length: int, most: int) -> int:
    """Largest multiple of the lanes that divides the length, up to `most`."""
    return max(n for n in range(_LANES, most + 1, _LANES) if length % n == 0)


def prompt_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, state: None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Causal attention over right-padded prompts; keeps keys and values for the cache."""
    index = jnp.arange(q.shape[1])
    visible = (index[:, None] >= index[None, :])[None]
    return _attend(q, k, v, visible), (k, v)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array) -> jax.Array:
    """q [B,T,H,d], k and v [B,U,K,d], visible bool[B or 1,T,U] -> [B,T,H,d]."""
    b, t, h, d = q.shape
    q = q.reshape(b, t, k.shape[2], h // k.shape[2], d)
    scores = jnp.einsum("btkgd,bukd->bkgtu", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(visible[:, None, None], scores * d**-0.5, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgtu,bukd->btkgd", weights, v).reshape(b, t, h, d)


def cached_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, state: tuple[LayerCache, jax.Array]
) -> tuple[jax.Array, LayerCache]:
    """One new token per slot against its cache; writes the token's key and value first.

    state: the layer's cache and position int32[S] of the new token.  A position outside the cache
    (an idle slot) writes nothing.
    """
    cache, position = state
    s, _, h, d = q.shape
    slots, (kv, blocks, _, block) = jnp.arange(s), cache.key.shape[1:]
    key = cache.key.at[slots, :, position // block, :, position % block].set(
        k[:, 0].astype(cache.key.dtype), mode="drop"
    )
    value = cache.value.at[slots, :, position].set(v[:, 0].astype(cache.value.dtype), mode="drop")
    q = q[:, 0].reshape(s, kv, 1, h // kv, d)
    q = jnp.broadcast_to(q, (s, kv, blocks, *q.shape[3:]))
    scores = jnp.einsum("skbgd,skbdc->skbgc", q, key, preferred_element_type=jnp.float32)
    scores = jnp.swapaxes(scores, 2, 3).reshape(s, kv, h // kv, blocks * block)
    visible = jnp.arange(blocks * block)[None] <= position[:, None]
    scores = jnp.where(visible[:, None, None], scores * d**-0.5, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    out = jnp.einsum("skgc,skcd->skgd", weights, value)
    return out.reshape(s, 1, h, d), LayerCache(key, value)


def paged_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    state: tuple[Pages, PageView],
    *,
    pages_per_step: int,
) -> tuple[jax.Array, Pages]:
    """One new token per slot against its pages; writes the token's key and value first.

    Every device of the tensor axis serves its own heads.  An idle slot writes nothing.  Heads
    narrower than the pages are filled up with zeros, which change no score.
    """
    size = q.shape[-1]

    def local(
        q: jax.Array, k: jax.Array, v: jax.Array, pages: Pages, view: PageView
    ) -> tuple[jax.Array, Pages]:
        q, k, v = (fill_lanes(x[:, 0]) for x in (q * size**-0.5, k, v))
        pages = Pages(
            *jax.lax.platform_dependent(
                *pages, k, v, view.at, tpu=page_kernels.write, default=write_pages
            )
        )
        kernel = functools.partial(page_kernels.read, pages_per_step=pages_per_step)
        out = jax.lax.platform_dependent(
            q, *pages, view.table, view.length, tpu=kernel, default=read_pages
        )
        return out[:, None, :, :size], pages

    pages, view = state
    if jax.sharding.get_abstract_mesh().empty:
        return local(q, k, v, pages, view)
    heads, whole = PartitionSpec(None, None, "tensor"), PartitionSpec()
    split = PartitionSpec("tensor")
    mapped = jax.shard_map(
        local, in_specs=(heads, heads, heads, split, whole), out_specs=(heads, split),
        axis_names={"tensor"}, check_vma=False,
    )  # fmt: skip
    return mapped(q, k, v, pages, view)


def write_pages(
    key: jax.Array, value: jax.Array, new_key: jax.Array, new_value: jax.Array, at: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`page_kernels.write` in plain operations.  A scatter on a TPU takes one slot at a time."""

    def put(pages: jax.Array, x: jax.Array) -> jax.Array:
        flat = pages.reshape(pages.shape[0], -1, pages.shape[-1])
        x = jnp.swapaxes(x, 0, 1).astype(pages.dtype)
        return flat.at[:, at].set(x, mode="drop", unique_indices=True).reshape(pages.shape)

    return put(key, new_key), put(value, new_value)


def read_pages(
    q: jax.Array, key: jax.Array, value: jax.Array, table: jax.Array, length: jax.Array
) -> jax.Array:
    """`page_kernels.read` in plain operations, which gather the whole table."""
    s, h, d = q.shape
    kv = key.shape[0]
    key, value = (x[:, table].reshape(kv, s, -1, d) for x in (key, value))
    q = q.reshape(s, kv, h // kv, d)
    scores = jnp.einsum("skgd,kscd->skgc", q, key, preferred_element_type=jnp.float32)
    visible = jnp.arange(key.shape[2])[None] < length[:, None]
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, _MASKED), axis=-1)
    return jnp.einsum("skgc,kscd->skgd", weights.astype(value.dtype), value).reshape(s, h, d)
