"""Keys and values of an engine, held in one of two ways behind one set of functions.

Dense: an array of positions per slot, and another per prefix, copied into every slot that uses it.
Attention reads the whole array.  The way of CPU and GPU, where the arrays grow when they must.

Paged: all keys and values of a layer lie in pages, and a table names the pages of each slot.  A
prefix row and a slot own their pages for good, so nothing is ever allocated.  A slot reads its
prompt where the prefill put it, shared with the other completions of the prompt; only the last
page, if it is partly filled, is copied to where the completion goes on.  The way of the TPU, whose
kernel reads the pages in use and no others.

Letters: S slots, G prefixes, n prompts of one prefill, t prompt tokens, T positions, K key/value
heads, d head size, c positions of a block of keys, N pages, p tokens of a page, M pages of a slot's
table.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from dars_jax.policy import decoder
from dars_jax.policy.attention import (
    LayerCache,
    Pages,
    PageView,
    cached_attention,
    fill_lanes,
    page_width,
    paged_attention,
)

_PAGE = 128  # tokens; with bfloat16 keys of 128 features one transfer of the kernel is 32 KB


@dataclasses.dataclass(frozen=True)
class PageLayout:
    """Who owns which pages: first the prefix rows, one after the other, then the slots' blocks."""

    size: int  # p
    prefixes: int  # G
    per_prefix: int
    slots: int  # the most there can be
    per_slot: int
    step: int  # the kernel takes this many pages at a time

    @property
    def count(self) -> int:
        """N."""
        return self.prefixes * self.per_prefix + self.slots * self.per_slot

    @property
    def width(self) -> int:
        """M."""
        return -(-(self.per_prefix + self.per_slot) // self.step) * self.step


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("layers", "table", "block"),
    meta_fields=("layout",),
)
@dataclasses.dataclass(frozen=True)
class PagedCache:
    """The pages of all layers, prefixes included."""

    layers: tuple[Pages, ...]  # [E,K,N,p,page_width(d)]
    table: jax.Array  # int32[E,S,M], pages of a slot in the order of its positions
    block: jax.Array  # int32[E,layout.slots]: slot i owns block[i]; a permutation
    layout: PageLayout


Layers = tuple[LayerCache, ...]
Caches = Layers | PagedCache


def page_size(platform: str, head_dim: int, dtype: jnp.dtype) -> int:
    """Tokens of a page where caches are paged, else 0.

    The kernel wants a TPU, and rounds keys and values to bfloat16.  Pages hold whole lanes: heads
    of 64 features take the room of 128, which is less than what dense caches are copied for.
    """
    return _PAGE if platform == "tpu" and head_dim % 64 == 0 and dtype == jnp.bfloat16 else 0


def page_layout(
    size: int, prefixes: int, prompt_tokens: int, slots: int, response_tokens: int
) -> PageLayout:
    """The layout for prompts and completions of at most so many tokens."""
    # a block begins with what the prompt's last page holds; the last token is never fed
    longest = size - 1 + max(response_tokens - 1, 1)
    return PageLayout(
        size=size,
        prefixes=prefixes,
        per_prefix=-(-prompt_tokens // size),
        slots=slots,
        per_slot=-(-longest // size),
        step=max(512 // size, 1),
    )


def key_block(platform: str, tokens: int) -> int:
    """Positions of a block of keys where caches are dense, for sequences of so many tokens."""
    return min(32 if platform == "cpu" else 128, tokens)


def empty_dense(
    config: decoder.ModelConfig, dtype: jnp.dtype, rows: int, tokens: int, block: int
) -> Layers:
    """Zeroed arrays of one replica, for at least so many tokens, in whole blocks."""
    kv, d, blocks = config.num_kv_heads, config.head_dim, -(-tokens // block)
    return tuple(
        LayerCache(
            jnp.zeros((rows, kv, blocks, d, block), dtype),
            jnp.zeros((rows, kv, blocks * block, d), dtype),
        )
        for _ in range(config.num_layers)
    )


def empty_paged(
    config: decoder.ModelConfig, dtype: jnp.dtype, layout: PageLayout, slots: int
) -> PagedCache:
    """Zeroed pages of one replica, heads split over the tensor axis."""
    shape = (config.num_kv_heads, layout.count, layout.size, page_width(config.head_dim))

    def pages() -> jax.Array:
        x = jnp.zeros(shape, dtype)
        if jax.sharding.get_abstract_mesh().empty:
            return x
        return jax.lax.with_sharding_constraint(x, PartitionSpec("tensor"))

    return PagedCache(
        layers=tuple(Pages(pages(), pages()) for _ in range(config.num_layers)),
        table=jnp.zeros((slots, layout.width), jnp.int32),
        block=jnp.arange(layout.slots, dtype=jnp.int32),
        layout=layout,
    )


def capacity(caches: Caches) -> int:
    """Positions of each slot, T."""
    if isinstance(caches, PagedCache):
        return caches.layout.width * caches.layout.size
    return caches[0].value.shape[-2]


def dense_layer(key: jax.Array, value: jax.Array, block: int) -> LayerCache:
    """[n,t,K,d] each -> [n,K,t/c,d,c], zeros behind the last token, and [n,K,t,d]."""
    n, t, kv, d = key.shape
    key = jnp.pad(key, ((0, 0), (0, -t % block), (0, 0), (0, 0)))
    key = key.reshape(n, -1, block, kv, d).transpose(0, 3, 1, 4, 2)
    return LayerCache(key, jnp.swapaxes(value, 1, 2))


def put_dense(old: LayerCache, new: LayerCache, row: jax.Array) -> LayerCache:
    """The layers of `dense_layer` at the beginning of the rows int32[n] of longer ones."""
    key, value = new.key.astype(old.key.dtype), new.value.astype(old.value.dtype)
    return LayerCache(
        old.key.at[row, :, : key.shape[2]].set(key, mode="drop"),
        old.value.at[row, :, : value.shape[2]].set(value, mode="drop"),
    )


def store_dense(stored: Layers, new: list[tuple[jax.Array, jax.Array]], row: jax.Array) -> Layers:
    """Prompts' keys and values [n,t,K,d] per layer into the rows int32[n] of the dense store."""
    return tuple(
        put_dense(old, dense_layer(key, value, old.key.shape[-1]), row)
        for old, (key, value) in zip(stored, new, strict=True)
    )


def store_paged(
    pool: PagedCache, new: list[tuple[jax.Array, jax.Array]], row: jax.Array
) -> PagedCache:
    """Prompts' keys and values [n,t,K,d] per layer into the pages of the rows int32[n]."""
    layout = pool.layout
    n, t = new[0][0].shape[:2]
    used = -(-t // layout.size)
    page = row[:, None] * layout.per_prefix + jnp.arange(used)
    page = jnp.where((row < layout.prefixes)[:, None], page, layout.count)  # [n,used]

    def put(old: jax.Array, x: jax.Array) -> jax.Array:
        x = jnp.pad(fill_lanes(x), ((0, 0), (0, used * layout.size - t), (0, 0), (0, 0)))
        x = x.reshape(n, used, layout.size, *x.shape[2:]).transpose(3, 0, 1, 2, 4)
        return old.at[:, page].set(x.astype(old.dtype), mode="drop")

    layers = tuple(
        Pages(put(old.key, key), put(old.value, value))
        for old, (key, value) in zip(pool.layers, new, strict=True)
    )
    return dataclasses.replace(pool, layers=layers)


def give(
    stored: Layers, caches: Caches, prefix: jax.Array, length: jax.Array, take: jax.Array
) -> Caches:
    """Slots where bool[S] `take` get the prompts in rows int32[S] of int32[S] tokens."""
    count = jnp.sum(take)
    order = jnp.argsort(~take, stable=True)  # the slots that take one come first
    if not isinstance(caches, PagedCache):
        return jax.lax.fori_loop(
            0, count, lambda i, c: _copy_prefix(stored, c, prefix[order[i]], order[i]), caches
        )
    layout = caches.layout
    first = prefix * layout.per_prefix
    own = layout.prefixes * layout.per_prefix + caches.block[: len(take)] * layout.per_slot
    whole = length // layout.size  # pages that the prompt fills
    index = jnp.arange(layout.width)
    mine = own[:, None] + jnp.minimum(index - whole[:, None], layout.per_slot - 1)
    table = jnp.where(index < whole[:, None], first[:, None] + index, mine)
    # where no page is partly filled, what is copied will be written over
    source = first + jnp.minimum(whole, layout.per_prefix - 1)

    def copy(i: jax.Array, layers: tuple[Pages, ...]) -> tuple[Pages, ...]:
        at, to = source[order[i]], own[order[i]]
        move = lambda x: jax.lax.dynamic_update_slice_in_dim(  # noqa: E731
            x, jax.lax.dynamic_slice_in_dim(x, at, 1, 1), to, 1
        )
        return jax.tree.map(move, layers)

    return dataclasses.replace(
        caches,
        layers=jax.lax.fori_loop(0, count, copy, caches.layers),
        table=jnp.where(take[:, None], table, caches.table),
    )


def _copy_prefix(stored: Layers, caches: Layers, prefix: jax.Array, slot: jax.Array) -> Layers:
    """Prefix `prefix` into slot `slot`, layer by layer, in place."""
    copied = []
    for store, cache in zip(stored, caches, strict=True):
        key = jax.lax.dynamic_index_in_dim(store.key, prefix, 0)
        value = jax.lax.dynamic_index_in_dim(store.value, prefix, 0)
        copied.append(
            LayerCache(
                jax.lax.dynamic_update_slice(cache.key, key, (slot, 0, 0, 0, 0)),
                jax.lax.dynamic_update_slice(cache.value, value, (slot, 0, 0, 0)),
            )
        )
    return tuple(copied)


def turns(config: decoder.ModelConfig, caches: Caches) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of all positions of a slot, float32[T,d/2] each.

    Made before a loop of decode steps, which look them up: XLA would make them for each head.
    """
    cos, sin = decoder.rotation(config, jnp.arange(capacity(caches))[None])
    return cos[0], sin[0]


def forward_token(
    params: decoder.Params,
    config: decoder.ModelConfig,
    token: jax.Array,
    position: jax.Array,
    active: jax.Array,
    turns: tuple[jax.Array, jax.Array],
    caches: Caches,
) -> tuple[jax.Array, Caches]:
    """One token int32[S] of each slot at its position int32[S] -> (hidden [S,D], caches).

    Idle slots write nothing, and what comes out for them means nothing.

    Args:
      turns: of all positions, see `turns`.
    """
    cos, sin = (jnp.take(x, position, axis=0, mode="clip")[:, None] for x in turns)
    forward = functools.partial(decoder.forward_token, params, config, token, (cos, sin))
    states: tuple[Any, ...]
    if not isinstance(caches, PagedCache):
        at = jnp.where(active, position, capacity(caches))
        states = tuple((layer, at) for layer in caches)
        return forward(attention=cached_attention, states=states)
    layout = caches.layout
    index = jnp.where(active, position // layout.size, 0)[:, None]
    page = jnp.take_along_axis(caches.table, index, axis=1)[:, 0]
    at = page * layout.size + position % layout.size
    beyond = layout.count * layout.size + jnp.arange(len(token))  # no two alike
    view = PageView(
        table=caches.table,
        length=jnp.where(active, position + 1, 0),
        at=jnp.where(active, at, beyond),
    )
    attention = functools.partial(paged_attention, pages_per_step=layout.step)
    states = tuple((layer, view) for layer in caches.layers)
    hidden, layers = forward(attention=attention, states=states)
    return hidden, dataclasses.replace(caches, layers=layers)


def resize(caches: Caches, order: jax.Array, size: int, tokens: int) -> Caches:
    """Caches of `size` slots, dense ones with `tokens` positions, never fewer than now.

    order: int32[S], the slots of now by rank; the first `size` are kept, if there are as many.
    """
    more = max(size - len(order), 0)
    if isinstance(caches, PagedCache):
        return dataclasses.replace(
            caches,
            table=jnp.pad(caches.table[order[:size]], ((0, more), (0, 0))),
            block=caches.block.at[: len(order)].set(caches.block[order]),
        )
    longer = tokens - capacity(caches)

    def one(x: jax.Array, extra: int) -> jax.Array:
        if size < len(order):
            x = x[order[:size]]
        if not more and not extra:
            return x
        shape = (x.shape[0] + more, x.shape[1], x.shape[2] + extra, *x.shape[3:])
        # three times as fast as a pad on a CPU, which asks of every entry where it lies
        return jax.lax.dynamic_update_slice(jnp.zeros(shape, x.dtype), x, (0,) * x.ndim)

    return tuple(
        LayerCache(one(layer.key, longer // layer.key.shape[-1]), one(layer.value, longer))
        for layer in caches
    )
