"""Prefill, refill and decoding, as programs over state that stays on the devices.

The whole list of requests lives on the device.  A freed slot takes the next one inside the
compiled loop, so the host is asked once in K steps, not once a token.  A prompt is prefilled once;
all its requests copy its keys and values from the prefix store.

Letters: E engine replicas (one per data/fsdp index of the mesh), S slots, G prefixes, W requests,
P prompt tokens, C completion tokens, D model width, K key/value heads, d head size.
Every array starts with E and is split along it.  The replicas run as independent programs
(shard_map), each with its own loop count; within a replica the tensor axis is left to the compiler.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from dars_jax import model, sharding
from dars_jax.attention import LayerCache, cached_attention, prompt_attention
from dars_jax.sampler import sample

_CHUNK = 64  # requests whose first logits exist at a time


def _pytree(cls: type) -> type:
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

    @property
    def cache_tokens(self) -> int:
        """Positions of a slot's cache.  The last sampled token is never fed, hence no +1."""
        return self.prompt_tokens + self.response_tokens


@_pytree
class Sampling:
    """Sampling parameters, one entry per request."""

    temperature: jax.Array  # float32[...]; 0 is greedy
    top_p: jax.Array  # float32[...]
    top_k: jax.Array  # int32[...]


@_pytree
class Prefixes:
    """Prefilled prompts, ready to be copied into slots."""

    caches: tuple[LayerCache, ...]  # per layer, [E,G,K,d,P] and [E,G,K,P,d]
    hidden: jax.Array  # [E,G,D] of the last prompt token
    length: jax.Array  # int32[E,G]


@_pytree
class Slots:
    """Requests being decoded.  `token` is sampled and recorded, but not yet fed."""

    caches: tuple[LayerCache, ...]  # per layer, [E,S,K,d,P+C] and [E,S,K,P+C,d]
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

    row: jax.Array  # int32[E,n], where the completion is to be written
    prefix: jax.Array  # int32[E,n]
    stream: jax.Array  # int32[E,n,5]: seed, step, stage, prompt, sample
    limit: jax.Array  # int32[E,n]
    sampling: Sampling  # [E,n]


@_pytree
class Report:
    """What the host learns from a dispatch."""

    steps: jax.Array  # int32[E], decode steps run
    busy: jax.Array  # int32[E], slots in use, summed over the steps
    active: jax.Array  # int32[E], slots in use now
    waiting: jax.Array  # int32[E]
    length: jax.Array  # int32[E,W], as in Work


def stream_key(stream: jax.Array) -> jax.Array:
    """The random key of a request, from what it means: int32[5] seed, step, stage, prompt, sample.

    Slot, batch company and restarts do not enter, so a completion made again is the same one.
    """
    key = jax.random.key(stream[0])
    for part in range(1, 5):
        key = jax.random.fold_in(key, stream[part])
    return key


def draw(
    params: model.Params,
    hidden: jax.Array,
    key: jax.Array,
    index: jax.Array,
    sampling: Sampling,
    filters: bool,
) -> tuple[jax.Array, jax.Array]:
    """Samples token number `index` of each request from hidden [n,D]."""
    logits = jnp.einsum(
        "nd,vd->nv", hidden, model.head_matrix(params), preferred_element_type=jnp.float32
    )
    uniform = jax.vmap(lambda k, i: jax.random.uniform(jax.random.fold_in(k, i)))(key, index)
    return sample(logits, uniform, sampling.temperature, sampling.top_p, sampling.top_k,
                  filters=filters)  # fmt: skip


def _is_eos(token: jax.Array, config: DecodeConfig) -> jax.Array:
    return functools.reduce(jnp.logical_or, [token == e for e in config.eos_ids])


def empty_caches(
    config: DecodeConfig, model_config: model.ModelConfig, rows: int, tokens: int
) -> tuple[LayerCache, ...]:
    """Zeroed caches of one replica."""
    kv, d = model_config.num_kv_heads, model_config.head_dim
    return tuple(
        LayerCache(
            jnp.zeros((rows, kv, d, tokens), config.dtype),
            jnp.zeros((rows, kv, tokens, d), config.dtype),
        )
        for _ in range(model_config.num_layers)
    )


def _empty_sampling(rows: int) -> Sampling:
    return Sampling(jnp.ones(rows), jnp.ones(rows), jnp.zeros(rows, jnp.int32))


def _no_keys(rows: int) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.zeros(rows, jnp.uint32))


def empty_slots(config: DecodeConfig, model_config: model.ModelConfig, slots: int) -> Slots:
    """Idle slots of one replica."""
    ints = jnp.zeros(slots, jnp.int32)
    return Slots(
        caches=empty_caches(config, model_config, slots, config.cache_tokens),
        token=ints,
        logprob=jnp.zeros(slots),
        position=jnp.full(slots, config.cache_tokens),
        generated=ints,
        limit=ints,
        row=jnp.full(slots, config.requests),
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


def empty_prefixes(config: DecodeConfig, model_config: model.ModelConfig) -> Prefixes:
    """An empty prefix store, one replica."""
    g = config.prefixes
    return Prefixes(
        caches=empty_caches(config, model_config, g, config.prompt_tokens),
        hidden=jnp.zeros((g, model_config.d_model), config.dtype),
        length=jnp.zeros(g, jnp.int32),
    )


def prompt_caches(
    params: model.Params,
    model_config: model.ModelConfig,
    config: DecodeConfig,
    tokens: jax.Array,
    length: jax.Array,
) -> tuple[tuple[LayerCache, ...], jax.Array]:
    """Right-padded prompts int32[n,p] -> (caches [n,K,d,p] and [n,K,p,d], last hidden [n,D])."""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    x = jnp.take(params["embedding"], tokens, axis=0)
    caches = []
    for layer in params["layers"]:
        block = model.Block(model_config, prompt_attention, config.dtype)
        x, (k, v) = block.apply({"params": layer}, x, position, None)
        caches.append(LayerCache(jnp.transpose(k, (0, 2, 3, 1)), jnp.transpose(v, (0, 2, 1, 3))))
    norm = model.RMSNorm(model_config.norm_eps, "norm")
    hidden = norm.apply({"params": params["final_norm"]}, x)
    return tuple(caches), hidden[jnp.arange(len(tokens)), length - 1]


def _prefill(
    config: DecodeConfig,
    model_config: model.ModelConfig,
    params: model.Params,
    prefixes: Prefixes,
    tokens: jax.Array,
    length: jax.Array,
    row: jax.Array,
) -> Prefixes:
    """Prompts int32[n,p] into the store's rows int32[n]; row G is padding."""
    caches, hidden = prompt_caches(params, model_config, config, tokens, length)
    p = tokens.shape[1]
    stored = tuple(
        LayerCache(
            old.key.at[row, :, :, :p].set(new.key.astype(old.key.dtype), mode="drop"),
            old.value.at[row, :, :p].set(new.value.astype(old.value.dtype), mode="drop"),
        )
        for old, new in zip(prefixes.caches, caches, strict=True)
    )
    return Prefixes(
        caches=stored,
        hidden=prefixes.hidden.at[row].set(hidden, mode="drop"),
        length=prefixes.length.at[row].set(length, mode="drop"),
    )


def _enqueue(
    config: DecodeConfig, params: model.Params, prefixes: Prefixes, work: Work, new: Requests
) -> Work:
    """Adds requests and samples their first tokens, which need no slot: the prefill has the logits.

    One that is whole after its first token never takes a slot at all.
    """
    keys = jax.vmap(stream_key)(new.stream)

    def first(request: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        hidden, key, sampling = jax.tree.map(lambda x: x[None], request)
        token, logprob = draw(
            params, hidden, key, jnp.zeros(1, jnp.int32), sampling, config.filters
        )
        return token[0], logprob[0]

    requests = (prefixes.hidden[new.prefix], keys, new.sampling)
    token, logprob = jax.lax.map(first, requests, batch_size=_CHUNK)
    real = new.row < config.requests
    whole = _is_eos(token, config) | (new.limit <= 1)
    queued = real & ~whole
    at = jnp.where(queued, work.tail + jnp.cumsum(queued) - 1, config.requests)
    put = lambda old, value: old.at[new.row].set(value, mode="drop")  # noqa: E731
    return dataclasses.replace(
        work,
        prefix=put(work.prefix, new.prefix),
        limit=put(work.limit, new.limit),
        key=put(work.key, keys),
        sampling=jax.tree.map(put, work.sampling, new.sampling),
        queue=work.queue.at[at].set(new.row, mode="drop"),
        tail=work.tail + jnp.sum(queued),
        tokens=work.tokens.at[new.row, 0].set(token, mode="drop"),
        logprob=work.logprob.at[new.row, 0].set(logprob, mode="drop"),
        length=put(work.length, whole.astype(jnp.int32)),
    )


def _copy_prefix(prefixes: Prefixes, caches: Any, prefix: jax.Array, slot: jax.Array) -> Any:
    """Prefix `prefix` into slot `slot`, layer by layer, in place."""
    copied = []
    for store, cache in zip(prefixes.caches, caches, strict=True):
        key = jax.lax.dynamic_index_in_dim(store.key, prefix, 0)
        value = jax.lax.dynamic_index_in_dim(store.value, prefix, 0)
        copied.append(
            LayerCache(
                jax.lax.dynamic_update_slice(cache.key, key, (slot, 0, 0, 0)),
                jax.lax.dynamic_update_slice(cache.value, value, (slot, 0, 0, 0)),
            )
        )
    return tuple(copied)


def _refill(prefixes: Prefixes, slots: Slots, work: Work) -> tuple[Slots, Work]:
    """Free slots take the next requests of the queue."""
    free = ~slots.active
    rank = jnp.cumsum(free) - 1
    take = free & (rank < work.tail - work.head)
    count = jnp.sum(take)
    row = work.queue[jnp.where(take, work.head + rank, 0)]
    prefix = work.prefix[row]
    order = jnp.argsort(~take, stable=True)  # the slots that take one come first

    def copy(i: jax.Array, caches: Any) -> Any:
        return _copy_prefix(prefixes, caches, prefix[order[i]], order[i])

    put = lambda new, old: jnp.where(take, new, old)  # noqa: E731
    slots = Slots(
        caches=jax.lax.fori_loop(0, count, copy, slots.caches),
        token=put(work.tokens[row, 0], slots.token),
        logprob=put(work.logprob[row, 0], slots.logprob),
        position=put(prefixes.length[prefix], slots.position),
        generated=put(1, slots.generated),
        limit=put(work.limit[row], slots.limit),
        row=put(row, slots.row),
        active=slots.active | take,
        key=put(work.key[row], slots.key),
        sampling=jax.tree.map(lambda w, s: put(w[row], s), work.sampling, slots.sampling),
    )
    return slots, dataclasses.replace(work, head=work.head + count)


def decode_step(
    config: DecodeConfig, model_config: model.ModelConfig, params: model.Params, slots: Slots
) -> Slots:
    """Feeds every active slot's token and samples its next one."""
    position = jnp.where(slots.active, slots.position, config.cache_tokens)
    hidden, caches = model.forward_token(
        params, model_config, slots.token, position, attention=cached_attention,
        states=tuple((cache, position) for cache in slots.caches),
    )  # fmt: skip
    token, logprob = draw(
        params, hidden, slots.key, slots.generated, slots.sampling, config.filters
    )
    step = slots.active.astype(jnp.int32)
    return dataclasses.replace(
        slots,
        caches=caches,
        token=jnp.where(slots.active, token, slots.token),
        logprob=jnp.where(slots.active, logprob, slots.logprob),
        position=slots.position + step,
        generated=slots.generated + step,
    )


def ends(config: DecodeConfig, slots: Slots) -> jax.Array:
    """Active slots whose current token is their last -> bool[S]."""
    return slots.active & (_is_eos(slots.token, config) | (slots.generated >= slots.limit))


def _record(config: DecodeConfig, slots: Slots, work: Work) -> tuple[Slots, Work]:
    """Writes each active slot's newest token to its request; frees the slots that are done."""
    row = jnp.where(slots.active, slots.row, config.requests)
    at = slots.generated - 1
    done = ends(config, slots)
    done_row = jnp.where(done, slots.row, config.requests)
    work = dataclasses.replace(
        work,
        tokens=work.tokens.at[row, at].set(slots.token, mode="drop"),
        logprob=work.logprob.at[row, at].set(slots.logprob, mode="drop"),
        length=work.length.at[done_row].set(slots.generated, mode="drop"),
    )
    return dataclasses.replace(slots, active=slots.active & ~done), work


def _run(
    config: DecodeConfig,
    model_config: model.ModelConfig,
    may_shrink: bool,
    params: model.Params,
    prefixes: Prefixes,
    slots: Slots,
    work: Work,
    max_steps: jax.Array,
) -> tuple[Slots, Work, Report]:
    """Up to max_steps of refill, decode, record.

    Returns early when nothing is left, or when half of the slots are idle with nothing waiting:
    the host then goes on with a program of half as many slots.
    """
    size = slots.token.shape[0]

    def more(carry: Any) -> jax.Array:
        slots, work, steps, _ = carry
        waiting = work.tail - work.head
        active = jnp.sum(slots.active)
        worth = (waiting > 0) | (active > (size // 2 if may_shrink else 0))
        return worth & (steps < max_steps)

    def body(carry: Any) -> Any:
        slots, work, steps, busy = carry
        slots, work = _refill(prefixes, slots, work)
        busy = busy + jnp.sum(slots.active)
        slots = decode_step(config, model_config, params, slots)
        slots, work = _record(config, slots, work)
        return slots, work, steps + 1, busy

    zero = jnp.zeros((), jnp.int32)
    slots, work, steps, busy = jax.lax.while_loop(more, body, (slots, work, zero, zero))
    report = Report(steps, busy, jnp.sum(slots.active), work.tail - work.head, work.length)
    return slots, work, report


def _resize(
    config: DecodeConfig, model_config: model.ModelConfig, size: int, slots: Slots
) -> Slots:
    """The same requests in `size` slots.  Shrinking requires that the active ones fit."""
    now = slots.token.shape[0]
    if size > now:
        spare = empty_slots(config, model_config, size - now)
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), slots, spare)
    order = jnp.argsort(~slots.active, stable=True)[:size]
    return jax.tree.map(lambda x: x[order], slots)


def _drain(work: Work, row: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Completions of requests int32[n]: tokens int32[n,C], logprob float32[n,C], length int32[n]."""
    return work.tokens[row], work.logprob[row], work.length[row]


class Programs:
    """The compiled programs of an engine on a mesh.

    A program is compiled once per shape: prefill per prompt bucket, enqueue and drain per bucket of
    requests, run per number of slots.
    """

    def __init__(self, config: DecodeConfig, model_config: model.ModelConfig, mesh: Mesh):
        self.config, self.model_config, self.mesh = config, model_config, mesh
        self.num_replicas = sharding.num_replicas(mesh)
        weights = sharding.decode_shardings(model_config, mesh)
        dtype = config.dtype
        self.publish = jax.jit(
            lambda params: model.unstack_layers(params, dtype), out_shardings=weights
        )
        self.empty_work = self.per_replica(lambda: empty_work(config), 0)
        self.empty_prefixes = self.per_replica(lambda: empty_prefixes(config, model_config), 0)
        self._empty_slots: dict[int, Callable[..., Slots]] = {}
        self.prefill = self.per_replica(
            functools.partial(_prefill, config, model_config), 4, has_params=True, donate=(1,)
        )
        self.enqueue = self.per_replica(
            functools.partial(_enqueue, config), 3, has_params=True, donate=(2,)
        )
        self.drain = self.per_replica(_drain, 2)
        self._runs: dict[bool, Callable[..., Any]] = {
            shrink: self.per_replica(
                functools.partial(_run, config, model_config, shrink), 3,
                has_params=True, num_shared=1, donate=(2, 3),
            )
            for shrink in (False, True)
        }  # fmt: skip
        self._resizes: dict[int, Callable[..., Slots]] = {}

    def empty_slots(self, size: int) -> Slots:
        """Idle slots on every replica."""
        if size not in self._empty_slots:
            self._empty_slots[size] = self.per_replica(
                lambda: empty_slots(self.config, self.model_config, size), 0
            )
        return self._empty_slots[size]()

    def run(
        self,
        params: model.Params,
        prefixes: Prefixes,
        slots: Slots,
        work: Work,
        max_steps: int,
        may_shrink: bool,
    ) -> tuple[Slots, Work, Report]:
        """See `_run`; slots and work are donated."""
        steps = sharding.put(jnp.asarray(max_steps, jnp.int32), sharding.replicated(self.mesh))
        return self._runs[may_shrink](params, prefixes, slots, work, steps)

    def resize(self, slots: Slots, size: int) -> Slots:
        """See `_resize`; slots are donated."""
        if size not in self._resizes:
            resize = functools.partial(_resize, self.config, self.model_config, size)
            self._resizes[size] = self.per_replica(resize, 1)
        return self._resizes[size](slots)

    def per_replica(
        self,
        function: Callable[..., Any],
        num_split: int,
        *,
        has_params: bool = False,
        num_shared: int = 0,
        donate: tuple[int, ...] = (),
    ) -> Callable[..., Any]:
        """Jits `function` of one replica's arrays as a program over all replicas.

        Arguments: the parameters if `has_params`, then `num_split` arguments with a leading replica
        axis, then `num_shared` whole ones.
        """
        split, whole = PartitionSpec(sharding.BATCH_AXES), PartitionSpec()
        specs = (whole,) * has_params + (split,) * num_split + (whole,) * num_shared
        first, last = int(has_params), int(has_params) + num_split

        def one(*args: Any) -> Any:
            mine = [jax.tree.map(lambda x: x[0], a) for a in args[first:last]]
            out = function(*args[:first], *mine, *args[last:])
            return jax.tree.map(lambda x: x[None], out)

        mapped = jax.shard_map(
            one, mesh=self.mesh, in_specs=specs, out_specs=split, check_vma=False,
            axis_names=frozenset(sharding.BATCH_AXES),
        )  # fmt: skip
        return jax.jit(mapped, donate_argnums=donate)
