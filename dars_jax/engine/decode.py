"""Prefill, refill and decoding, as functions of one replica's state.

The whole list of requests lives on the device.  A freed slot takes the next one inside the
compiled loop, so the host is asked once in K steps, not once a token.  A prompt is prefilled once;
all its requests take its keys and values from the prefix store (see kv_cache.py).

Letters as in state.py, without the replica axis; n requests or prompts of one call.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dars_jax.engine import kv_cache
from dars_jax.engine.kv_cache import PagedCache
from dars_jax.engine.sampler import sample
from dars_jax.engine.state import (
    DecodeConfig,
    Prefixes,
    Report,
    Requests,
    Sampling,
    Slots,
    Work,
    empty_slots,
)
from dars_jax.policy import decoder
from dars_jax.policy.attention import prompt_attention
from dars_jax.types import Array

_CHUNK = 64  # requests whose first logits exist at a time


def stream_key(stream: Array) -> jax.Array:
    """The random key of a request, from what it means: int32[5] seed, step, stage, prompt, sample.

    Slot, batch company and restarts do not enter, so a completion made again is the same one.
    """
    key = jax.random.key(stream[0])
    for part in range(1, 5):
        key = jax.random.fold_in(key, stream[part])
    return key


def draw(
    params: decoder.Params,
    hidden: jax.Array,
    key: jax.Array,
    index: jax.Array,
    sampling: Sampling,
    filters: bool,
) -> tuple[jax.Array, jax.Array]:
    """Samples token number `index` of each request from hidden [n,D]."""
    logits = jnp.einsum(
        "nd,vd->nv", hidden, decoder.head_matrix(params), preferred_element_type=jnp.float32
    )
    uniform = jax.vmap(lambda k, i: jax.random.uniform(jax.random.fold_in(k, i)))(key, index)
    return sample(logits, uniform, sampling.temperature, sampling.top_p, sampling.top_k,
                  filters=filters)  # fmt: skip


def _is_eos(token: jax.Array, config: DecodeConfig) -> jax.Array:
    return functools.reduce(jnp.logical_or, [token == e for e in config.eos_ids])


def prompt_hidden(
    params: decoder.Params,
    model_config: decoder.ModelConfig,
    config: DecodeConfig,
    tokens: jax.Array,
) -> tuple[list[tuple[jax.Array, jax.Array]], jax.Array]:
    """Right-padded prompts int32[n,p] -> (key and value [n,p,K,d] per layer, hidden [n,p,D])."""
    turns = decoder.rotation(model_config, jnp.arange(tokens.shape[1])[None])
    x = jnp.take(params["embedding"], tokens, axis=0)
    states: list[Any] = []
    for layer in params["layers"]:
        block = decoder.Block(model_config, prompt_attention, config.dtype)
        x, state = block.apply({"params": layer}, x, turns, None)
        states.append(state)
    norm = decoder.RMSNorm(model_config.norm_eps)
    hidden: Any = norm.apply({"params": params["final_norm"]}, x)
    return states, hidden


def prompt_states(
    params: decoder.Params,
    model_config: decoder.ModelConfig,
    config: DecodeConfig,
    tokens: jax.Array,
    length: jax.Array,
) -> tuple[list[tuple[jax.Array, jax.Array]], jax.Array]:
    """Right-padded prompts int32[n,p] -> (key and value [n,p,K,d] per layer, last hidden [n,D])."""
    states, hidden = prompt_hidden(params, model_config, config, tokens)
    return states, hidden[jnp.arange(len(tokens)), length - 1]


def score(
    params: decoder.Params,
    model_config: decoder.ModelConfig,
    config: DecodeConfig,
    tokens: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How likely the tokens int32[p] of one text are, each after those before it, temperature 1.

    Returns:
      (float32[p-1], log-probability of tokens 1 … p-1; int32[p-1], the most likely token in the
      place of each; float32[p-1], the log-probability of that)
    """
    _, hidden = prompt_hidden(params, model_config, config, tokens[None])
    head = decoder.head_matrix(params)

    def one(place: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, token = place
        logits = jnp.einsum("d,vd->v", x, head, preferred_element_type=jnp.float32)
        logprob = jax.nn.log_softmax(logits)
        best = jnp.argmax(logprob).astype(jnp.int32)
        return logprob[token], best, logprob[best]

    return jax.lax.map(one, (hidden[0, :-1], tokens[1:]), batch_size=_CHUNK)


def prefill(
    config: DecodeConfig,
    model_config: decoder.ModelConfig,
    params: decoder.Params,
    prefixes: Prefixes,
    pool: PagedCache | tuple[()],
    tokens: jax.Array,
    length: jax.Array,
    row: jax.Array,
) -> tuple[Prefixes, PagedCache | tuple[()]]:
    """Prompts int32[n,p] into the store's rows int32[n]; row G is padding.

    pool: the slots' pages, which are the store's too; () where caches are dense.
    """
    states, hidden = prompt_states(params, model_config, config, tokens, length)
    caches = prefixes.caches
    if config.page_size:
        assert isinstance(pool, PagedCache)
        pool = kv_cache.store_paged(pool, states, row)
    else:
        caches = kv_cache.store_dense(caches, states, row)
    prefixes = Prefixes(
        caches=caches,
        hidden=prefixes.hidden.at[row].set(hidden, mode="drop"),
        length=prefixes.length.at[row].set(length, mode="drop"),
    )
    return prefixes, pool


def enqueue(
    config: DecodeConfig, params: decoder.Params, prefixes: Prefixes, work: Work, new: Requests
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


def _refill(prefixes: Prefixes, slots: Slots, work: Work) -> tuple[Slots, Work]:
    """Free slots take the next requests of the queue."""
    free = ~slots.active
    rank = jnp.cumsum(free) - 1
    take = free & (rank < work.tail - work.head)
    count = jnp.sum(take)
    row = work.queue[jnp.where(take, work.head + rank, 0)]
    prefix = work.prefix[row]
    length = prefixes.length[prefix]
    put = lambda new, old: jnp.where(take, new, old)  # noqa: E731
    slots = Slots(
        caches=kv_cache.give(prefixes.caches, slots.caches, prefix, length, take),
        token=put(work.tokens[row, 0], slots.token),
        logprob=put(work.logprob[row, 0], slots.logprob),
        position=put(length, slots.position),
        generated=put(1, slots.generated),
        limit=put(work.limit[row], slots.limit),
        row=put(row, slots.row),
        active=slots.active | take,
        key=put(work.key[row], slots.key),
        sampling=jax.tree.map(lambda w, s: put(w[row], s), work.sampling, slots.sampling),
    )
    return slots, dataclasses.replace(work, head=work.head + count)


def decode_step(
    config: DecodeConfig,
    model_config: decoder.ModelConfig,
    params: decoder.Params,
    turns: tuple[jax.Array, jax.Array],
    slots: Slots,
) -> Slots:
    """Feeds every active slot's token and samples its next one; `turns` as in kv_cache."""
    hidden, caches = kv_cache.forward_token(
        params, model_config, slots.token, slots.position, slots.active, turns, slots.caches
    )
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


def run(
    config: DecodeConfig,
    model_config: decoder.ModelConfig,
    params: decoder.Params,
    prefixes: Prefixes,
    slots: Slots,
    work: Work,
    max_steps: jax.Array,
    enough: jax.Array,
) -> tuple[Slots, Work, Report]:
    """Up to max_steps of refill, decode, record.

    Returns early when nothing waits and no more than `enough` slots are active: the host then goes
    on with a program of fewer slots; or when a cache is full and must grow.
    """
    capacity = kv_cache.capacity(slots.caches)
    turns = kv_cache.turns(model_config, slots.caches)

    def longest(slots: Slots) -> jax.Array:
        return jnp.max(jnp.where(slots.active, slots.position + 1, 0))

    def more(carry: Any) -> jax.Array:
        slots, work, steps, _ = carry
        worth = (work.tail > work.head) | (jnp.sum(slots.active) > enough)
        return worth & (steps < max_steps) & (longest(slots) <= capacity)

    def body(carry: Any) -> Any:
        slots, work, steps, busy = carry
        slots, work = _refill(prefixes, slots, work)
        busy = busy + jnp.sum(slots.active)
        slots = decode_step(config, model_config, params, turns, slots)
        slots, work = _record(config, slots, work)
        return slots, work, steps + 1, busy

    zero = jnp.zeros((), jnp.int32)
    slots, work, steps, busy = jax.lax.while_loop(more, body, (slots, work, zero, zero))
    report = Report(steps, busy, jnp.sum(slots.active), longest(slots), work.tail - work.head,
                    work.length)  # fmt: skip
    return slots, work, report


def resize(
    config: DecodeConfig, model_config: decoder.ModelConfig, size: int, capacity: int, slots: Slots
) -> Slots:
    """The same requests in `size` slots, with caches of `capacity` positions, never fewer.

    Giving up slots requires that the active ones fit.
    """
    now = slots.token.shape[0]
    caches, rest = slots.caches, dataclasses.replace(slots, caches=())
    order = jnp.arange(now)
    if size > now:
        spare = dataclasses.replace(empty_slots(config, model_config, size - now, 1), caches=())
        rest = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), rest, spare)
    elif size < now:
        order = jnp.argsort(~slots.active, stable=True)
        rest = jax.tree.map(lambda x: x[order[:size]], rest)
    return dataclasses.replace(rest, caches=kv_cache.resize(caches, order, size, capacity))


def drain(work: Work, row: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Completions int32[n,C] of requests int32[n], with their float32[n,C] logprob and length."""
    return work.tokens[row], work.logprob[row], work.length[row]
