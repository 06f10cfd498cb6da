"""The state of a running engine: everything a decode loop carries, as pytrees on the devices.

Letters: E engine replicas (one per data/fsdp index of the mesh), S slots, G prefixes, W requests,
P prompt tokens, C completion tokens, T cache positions (one of `capacities`), D model width,
K key/value heads, d head size, c = key_block.
Every array starts with E and is split along it; the `empty_` functions make one replica's share,
without that axis.
"""

import dataclasses
from typing import TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from dars_jax.engine import kv_cache
from dars_jax.engine.kv_cache import Caches, Layers, PageLayout
from dars_jax.policy import decoder
from dars_jax.types import Array

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def _pytree(cls: type[_T]) -> type[_T]:
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """Static sizes of an engine, per replica."""

    slots: int  # S
    prefixes: int  # G
    requests: int  # W
    prompt_tokens: int  # P, longest prompt
    response_tokens: int  # C, longest completion
    eos_ids: tuple[int, ...]
    filters: bool  # compile top-p and top-k in
    dtype: jnp.dtype
    page_size: int = 0  # tokens; 0 keeps dense caches
    key_block: int = 32  # positions of a block of keys in a dense cache

    @property
    def pages(self) -> PageLayout | None:
        """Who owns which pages; None where caches are dense."""
        if not self.page_size:
            return None
        return kv_cache.page_layout(
            self.page_size, self.prefixes, self.prompt_tokens, self.slots, self.response_tokens
        )

    @property
    def cache_tokens(self) -> int:
        """Positions of a slot's cache.  The last sampled token is never fed, hence no +1."""
        return self.prompt_tokens + self.response_tokens

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of slots to go on with when there is no work for more, ascending.

        Where caches are dense a step takes as long as it has slots, so that from 32 on there is a
        number between two powers of two.  A TPU's step mostly reads weights.
        """
        powers = [1 << n for n in range(3, self.slots.bit_length())]
        between = [] if self.page_size else [n + n // 2 for n in powers if n >= 32]
        return (*sorted(n for n in powers + between if n < self.slots), self.slots)

    @property
    def capacities(self) -> tuple[int, ...]:
        """Lengths a slot's cache may have: it grows with the longest completion, in few steps.

        Attention reads the whole array, so what nobody has reached yet is better not there.
        Pages are all there from the start, and only those in use are read.
        """
        if self.page_size:
            return (self.cache_tokens,)
        step = max(-(-self.response_tokens // 128) * 32, 32)  # a quarter
        lengths = (*range(self.prompt_tokens + step, self.cache_tokens, step), self.cache_tokens)
        return tuple(sorted({-(-n // self.key_block) * self.key_block for n in lengths}))


@_pytree
class Sampling:
    """Sampling parameters, one entry per request."""

    temperature: Array  # float32[...]; 0 is greedy
    top_p: Array  # float32[...]
    top_k: Array  # int32[...]


@_pytree
class Prefixes:
    """Prefilled prompts, ready to be copied into slots."""

    caches: Layers  # per layer, as in a slot; () where the slots' pages hold them
    hidden: jax.Array  # [E,G,D] of the last prompt token
    length: jax.Array  # int32[E,G]


@_pytree
class Slots:
    """Requests being decoded.  `token` is sampled and recorded, but not yet fed."""

    caches: Caches  # dense: per layer, [E,S,K,T/c,d,c] and [E,S,K,T,d]
    token: jax.Array  # int32[E,S]
    logprob: jax.Array  # float32[E,S], of `token`
    position: jax.Array  # int32[E,S], where `token` goes; P+C when idle
    generated: jax.Array  # int32[E,S], tokens of the completion so far
    limit: jax.Array  # int32[E,S], most tokens of the completion
    row: jax.Array  # int32[E,S], the request served; W when idle
    active: jax.Array  # bool[E,S]
    key: jax.Array  # key[E,S], the request's own random stream
    sampling: Sampling  # [E,S]


@_pytree
class Work:
    """All requests, the queue of those that wait, and the completions."""

    prefix: jax.Array  # int32[E,W]
    limit: jax.Array  # int32[E,W]
    key: jax.Array  # key[E,W]
    sampling: Sampling  # [E,W]
    queue: jax.Array  # int32[E,W], request numbers; head … tail-1 wait
    head: jax.Array  # int32[E]
    tail: jax.Array  # int32[E]
    tokens: jax.Array  # int32[E,W,C]
    logprob: jax.Array  # float32[E,W,C]
    length: jax.Array  # int32[E,W], 0 until the completion is whole


@_pytree
class Requests:
    """New work for `enqueue`; `row` = W marks padding."""

    row: Array  # int32[E,n], where the completion is to be written
    prefix: Array  # int32[E,n]
    stream: Array  # int32[E,n,5]: seed, step, stage, prompt, sample
    limit: Array  # int32[E,n]
    sampling: Sampling  # [E,n]


@_pytree
class Report:
    """What the host learns from a dispatch."""

    steps: jax.Array  # int32[E], decode steps run
    busy: jax.Array  # int32[E], slots in use, summed over the steps
    active: jax.Array  # int32[E], slots in use now
    longest: jax.Array  # int32[E], cache positions the active slots need next
    waiting: jax.Array  # int32[E]
    length: jax.Array  # int32[E,W], as in Work


def _empty_sampling(rows: int) -> Sampling:
    return Sampling(jnp.ones(rows), jnp.ones(rows), jnp.zeros(rows, jnp.int32))


def _no_keys(rows: int) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.zeros(rows, jnp.uint32))


def empty_slots(
    config: DecodeConfig, model_config: decoder.ModelConfig, slots: int, capacity: int
) -> Slots:
    """Idle slots of one replica, with caches of `capacity` positions if they are dense."""
    ints = jnp.zeros(slots, jnp.int32)
    caches: Caches
    if config.pages is None:
        caches = kv_cache.empty_dense(model_config, config.dtype, slots, capacity, config.key_block)
    else:
        caches = kv_cache.empty_paged(model_config, config.dtype, config.pages, slots)
    return Slots(
        caches=caches,
        token=ints,
        logprob=jnp.zeros(slots),
        position=jnp.full(slots, config.cache_tokens, jnp.int32),
        generated=ints,
        limit=ints,
        row=jnp.full(slots, config.requests, jnp.int32),
        active=jnp.zeros(slots, bool),
        key=_no_keys(slots),
        sampling=_empty_sampling(slots),
    )


def empty_work(config: DecodeConfig) -> Work:
    """No requests, one replica."""
    w, c = config.requests, config.response_tokens
    ints = jnp.zeros(w, jnp.int32)
    return Work(
        prefix=ints, limit=ints, key=_no_keys(w), sampling=_empty_sampling(w), queue=ints,
        head=jnp.zeros((), jnp.int32), tail=jnp.zeros((), jnp.int32),
        tokens=jnp.zeros((w, c), jnp.int32), logprob=jnp.zeros((w, c)), length=ints,
    )  # fmt: skip


def empty_prefixes(config: DecodeConfig, model_config: decoder.ModelConfig) -> Prefixes:
    """An empty prefix store, one replica."""
    g = config.prefixes
    caches: Layers = ()
    if config.pages is None:
        caches = kv_cache.empty_dense(
            model_config, config.dtype, g, config.prompt_tokens, config.key_block
        )
    return Prefixes(
        caches=caches,
        hidden=jnp.zeros((g, model_config.d_model), config.dtype),
        length=jnp.zeros(g, jnp.int32),
    )
