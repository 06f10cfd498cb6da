"""The policy as a JetStream engine.

Rollouts go through `open_session`, which keeps the whole work list on the devices.  Serving goes
through JetStream's own prefill / insert / generate, over the same slots and the same decode step;
their caches are dense always, since requests share no prompts there.
Either way a request's completion depends on its stream (seed, step, stage, prompt, sample) only.

JetStream is archived.  The interface is that of 0.2.2, the last on PyPI; arguments that 0.3.0 of
its repository adds are accepted where they ask for nothing this engine would do otherwise.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jetstream.engine import engine_api, token_utils, tokenizer_api, tokenizer_pb2

from dars_jax.data.tokenizer import Tokenizer
from dars_jax.engine import decode, kv_cache
from dars_jax.engine.programs import Programs
from dars_jax.engine.session import NonFiniteError, SamplingConfig, Session
from dars_jax.engine.state import DecodeConfig, Sampling, Slots
from dars_jax.policy import decoder, sharding
from dars_jax.policy.attention import LayerCache

_PREFILL_BUCKETS = [2**i for i in range(3, 18)]


class JetStreamTokenizer(tokenizer_api.Tokenizer):
    """Our tokenizers behind JetStream's interface."""

    def __init__(self, tokenizer: Tokenizer, max_prefill_length: int):
        self._tokenizer = tokenizer
        self._buckets = [b for b in _PREFILL_BUCKETS if b < max_prefill_length]
        self._buckets.append(max_prefill_length)

    def encode(self, s: str, **kwargs: Any) -> tuple[jax.Array | np.ndarray, int]:
        """Text -> (ids padded to a prefill bucket, true length); ValueError if it is too long.

        `is_bos=False` leaves out the BOS of a policy that has one: the text continues another.
        """
        start = kwargs.get("is_bos", True)
        ids = self._tokenizer.encode_prompt(s) if start else self._tokenizer.encode(s)
        return self.pad(ids, kwargs.get("jax_padding", True))

    def pad(self, ids: Sequence[int], jax_padding: bool) -> tuple[jax.Array | np.ndarray, int]:
        """Ids as they are -> (int32[bucket], true length); ValueError if they are too many."""
        if len(ids) > self._buckets[-1]:
            raise ValueError(f"prompt of {len(ids)} tokens; at most {self._buckets[-1]} fit")
        width = token_utils.take_nearest_length(self._buckets, len(ids))
        padded = np.full(width, self.pad_id, np.int32)
        padded[: len(ids)] = ids
        return (jnp.asarray(padded) if jax_padding else padded), len(ids)

    def decode(self, token_ids: list[int], **kwargs: Any) -> str:
        """Ids -> text without special tokens."""
        return self._tokenizer.decode(token_ids)

    @property
    def pad_id(self) -> int:
        """Padding id."""
        return self._tokenizer.pad_id

    @property
    def eos_id(self) -> int:
        """The first of the ids that end an answer."""
        return self._tokenizer.eos_ids[0]

    @property
    def bos_id(self) -> int:
        """The id in front of a prompt; the EOS where the policy has none."""
        bos = self._tokenizer.bos_id
        return self.eos_id if bos is None else bos

    @property
    def stop_tokens(self) -> set[int]:
        """All ids that end an answer.  Padding is none: idle slots are marked as not valid."""
        return set(self._tokenizer.eos_ids)


@struct.dataclass
class Prefix:
    """A prefilled prompt with its first token, which its last hidden state already decides."""

    caches: tuple[LayerCache, ...]  # per layer, [1,K,p/c,d,c] and [1,K,p,d]
    length: jax.Array  # int32[]
    token: jax.Array  # int32[1]
    logprob: jax.Array  # float32[1]
    key: jax.Array  # key[1]
    limit: jax.Array  # int32[]
    sampling: Sampling  # [1]


@struct.dataclass
class PolicyTokens(engine_api.ResultTokens):
    """Tokens with their log-probabilities, which travel as the bits of int32 columns."""

    logprob_idx: tuple[int, int] = struct.field(pytree_node=False, default=(0, 0))

    def convert_to_numpy(self) -> "PolicyTokens":
        """The same with host arrays.

        Raises:
          NonFiniteError: a log-prob of a token that counts is not finite; here every token passes.
        """
        host = self.replace(data=np.asarray(self.data))
        valid = host.data[:, slice(*self.valid_idx)] > 0
        logprobs = np.ascontiguousarray(host.data[:, slice(*self.logprob_idx)]).view(np.float32)
        slots = np.flatnonzero((valid & ~np.isfinite(logprobs)).any(axis=1))
        if len(slots):
            raise NonFiniteError(
                f"serving: the log-probs for the prompt in slot {slots[0]} are not finite: "
                "its weights, or policy.dtype, cannot hold what it computes"
            )
        return host

    def logprobs(self, slot: int) -> np.ndarray:
        """float32[tokens] of a slot, of the sampler at the sampling temperature."""
        start, end = self.logprob_idx
        return np.ascontiguousarray(self.data[slot, start:end]).view(np.float32)


class PolicyEngine(engine_api.Engine):
    """Prefill, insert and generate over E * S slots: slot i is slot i % S of replica i // S."""

    def __init__(
        self,
        programs: Programs,
        tokenizer: Tokenizer,
        sampling: SamplingConfig,
        *,
        steps_per_dispatch: int = 1,
        seed: int = 0,
    ):
        self._programs = programs
        self._tokenizer = JetStreamTokenizer(tokenizer, programs.config.prompt_tokens)
        self._sampling, self._steps, self._seed = sampling, steps_per_dispatch, seed
        self._count = itertools.count()
        config, model_config = programs.config, programs.model_config
        self._prefill_one = jax.jit(functools.partial(_prefill_one, config, model_config))
        self._score = jax.jit(
            lambda params, tokens: decode.score(params, model_config, config, tokens)
        )
        self._insert = programs.per_replica(_insert, 2, num_shared=1, donate=(0,))
        self._generate = programs.per_replica(
            functools.partial(_generate, config, model_config, steps_per_dispatch), 1,
            has_params=True, donate=(1,),
        )  # fmt: skip

    def open_session(self, params: decoder.Params, prefill_batch: int) -> Session:
        """Slots, prefix store and work list for one batch of prompts; params as published."""
        return Session(self._programs, params, prefill_batch)

    def load_params(self, params: decoder.Params) -> decoder.Params:
        """Publishes the trainer's parameters: gathered over fsdp, cast, one dict per layer.

        Adapters among them are merged into the weights, see `lora.unstack_layers`.
        """
        return self._programs.publish(params)

    def prefill(
        self,
        *,
        params: decoder.Params,
        existing_prefix: Prefix | None = None,
        padded_tokens: jax.Array,
        true_length: int,
        stream: tuple[int, int, int, int, int] | None = None,
        sampling: SamplingConfig | None = None,
        **newer: Any,
    ) -> Prefix:
        """Keys and values of int32[p] prompt tokens, and the first token of the completion.

        Args:
          stream: what keys the completion's randomness; None takes a running number.
          sampling: None takes the engine's.
          newer: arguments of 0.3.0 (`sampler`, `rng`, `request_id`).

        Raises:
          ValueError: an existing prefix, a sampler or key of the caller's, or a prompt over the
            limit.
        """
        if existing_prefix is not None:
            raise ValueError("continuing an existing prefix is not supported")
        _check_newer(newer)
        config = self._programs.config
        if not 1 <= true_length <= min(len(padded_tokens), config.prompt_tokens):
            raise ValueError(
                f"prompt of {true_length} tokens: 1 to {config.prompt_tokens} are possible"
            )
        chosen = sampling or self._sampling
        if stream is None:
            stream = (self._seed, -2, 0, next(self._count), 0)
        one = lambda x, dtype: jnp.full(1, x, dtype)  # noqa: E731
        arrays = Sampling(
            one(chosen.temperature, jnp.float32),
            one(chosen.top_p, jnp.float32),
            one(chosen.top_k, jnp.int32),
        )
        limit = min(chosen.max_tokens, config.response_tokens)
        tokens = jnp.asarray(padded_tokens)[: config.prompt_tokens]
        return self._prefill_one(
            params, tokens, jnp.int32(true_length), jnp.asarray(stream, jnp.int32),
            jnp.int32(limit), arrays,
        )  # fmt: skip

    def pass_over(self, stream: tuple[int, int, int, int, int] | None = None) -> None:
        """Counts a request that nobody waits for any more as `prefill` would."""
        if stream is None:
            next(self._count)

    def insert(self, prefix: Prefix, decode_state: Slots, slot: int, **newer: Any) -> Slots:
        """Puts a prefilled request into a slot; the state is donated."""
        _check_newer(newer)
        replicas, size = decode_state.token.shape
        where = np.full(replicas, size, np.int32)  # the others write it beyond their slots
        where[slot // size] = slot % size
        return self._insert(decode_state, jnp.asarray(where), prefix)

    def generate(
        self, params: decoder.Params, decode_state: Slots, **newer: Any
    ) -> tuple[Slots, PolicyTokens]:
        """K tokens of every slot; valid is 1 up to and including a request's last token."""
        _check_newer(newer)
        state, data = self._generate(params, decode_state)
        k = self._steps
        return state, PolicyTokens(
            data=data.reshape(-1, data.shape[-1]),
            tokens_idx=(0, k),
            valid_idx=(k, 2 * k),
            length_idx=(2 * k, 2 * k + 1),
            samples_per_slot=1,
            logprob_idx=(2 * k + 1, 3 * k + 1),
        )

    def free_resource(self, slot: int) -> None:
        """0.3.0 calls it after a request.  A slot holds nothing that the next would not replace."""

    def pad(self, ids: Sequence[int]) -> tuple[jax.Array, int]:
        """Token ids -> (int32[p] in a prefill bucket, true length); ValueError if too many."""
        tokens, length = self._tokenizer.pad(ids, jax_padding=True)
        return jnp.asarray(tokens), length

    def score(
        self, params: decoder.Params, padded_tokens: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Log-probabilities of a text's own tokens; see `decode.score`."""
        return self._score(params, padded_tokens)

    def init_decode_state(self, *args: Any, **kwargs: Any) -> Slots:
        """Idle slots."""
        return self._programs.dense_slots()

    def get_prefix_destination_sharding(self) -> Any:
        """Prefixes live on every device of the engine's mesh."""
        return sharding.replicated(self.mesh)

    def get_tokenizer(self) -> tokenizer_pb2.TokenizerParameters:
        """JetStream's description of a tokenizer; ours is built by `build_tokenizer`."""
        return tokenizer_pb2.TokenizerParameters()

    def build_tokenizer(self, metadata: tokenizer_pb2.TokenizerParameters) -> JetStreamTokenizer:
        """The policy's own tokenizer; the metadata has nothing to add."""
        return self._tokenizer

    @property
    def sampling(self) -> SamplingConfig:
        """Of requests that ask for none."""
        return self._sampling

    @property
    def max_concurrent_decodes(self) -> int:
        """Slots over all replicas."""
        return self._programs.num_replicas * self._programs.config.slots

    @property
    def samples_per_slot(self) -> int:
        """One request per slot."""
        return 1

    @property
    def max_prefill_length(self) -> int:
        """Longest prompt, in tokens."""
        return self._programs.config.prompt_tokens

    @property
    def max_answer_length(self) -> int:
        """Longest completion, in tokens, its EOS included."""
        return self._programs.config.response_tokens

    @property
    def vocab_size(self) -> int:
        """Token ids lie in 0 … vocab_size - 1."""
        return self._programs.model_config.vocab_size

    @property
    def steps_per_dispatch(self) -> int:
        """K, tokens of every slot that one `generate` makes."""
        return self._steps

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """Mesh the engine runs on."""
        return self._programs.mesh

    @property
    def colocated_cpus(self) -> None:
        """None."""
        return None


def _check_newer(arguments: dict[str, Any]) -> None:
    """Refuses what JetStream 0.3.0 may ask for and this engine does in its own way."""
    known = {"sampler", "rng", "request_id"}
    if unknown := arguments.keys() - known:
        raise TypeError(f"unexpected argument {min(unknown)!r}")
    for name in ("sampler", "rng"):
        if arguments.get(name) is not None:
            raise ValueError(f"{name} is not supported: a request's stream decides what is drawn")


def _prefill_one(
    config: DecodeConfig,
    model_config: decoder.ModelConfig,
    params: decoder.Params,
    tokens: jax.Array,
    length: jax.Array,
    stream: jax.Array,
    limit: jax.Array,
    sampling: Sampling,
) -> Prefix:
    # A padding id may be none of the embedding's rows, and its NaN would stay in the cache.
    tokens = jnp.where(jnp.arange(len(tokens)) < length, tokens, 0)
    states, hidden = decode.prompt_states(params, model_config, config, tokens[None], length[None])
    caches = tuple(kv_cache.dense_layer(*state, config.key_block) for state in states)
    key = decode.stream_key(stream)[None]
    token, logprob = decode.draw(
        params, hidden, key, jnp.zeros(1, jnp.int32), sampling, config.filters
    )
    return Prefix(caches, length, token, logprob, key, limit, sampling)


def _insert(slots: Slots, slot: jax.Array, prefix: Prefix) -> Slots:
    """One replica's share of `PolicyEngine.insert`; slot S is none of its own."""
    put = lambda old, value: old.at[slot].set(value, mode="drop")  # noqa: E731
    assert not isinstance(slots.caches, kv_cache.PagedCache)
    caches = tuple(
        kv_cache.put_dense(old, new, slot[None])
        for old, new in zip(slots.caches, prefix.caches, strict=True)
    )
    return dataclasses.replace(
        slots,
        caches=caches,
        token=put(slots.token, prefix.token[0]),
        logprob=put(slots.logprob, prefix.logprob[0]),
        position=put(slots.position, prefix.length),
        generated=put(slots.generated, 1),
        limit=put(slots.limit, prefix.limit),
        active=put(slots.active, True),
        key=put(slots.key, prefix.key[0]),
        sampling=jax.tree.map(lambda a, b: put(a, b[0]), slots.sampling, prefix.sampling),
    )


def _generate(
    config: DecodeConfig,
    model_config: decoder.ModelConfig,
    steps: int,
    params: decoder.Params,
    slots: Slots,
) -> tuple[Slots, jax.Array]:
    """Emits the token each slot holds, then feeds it, K times -> int32[S,3K+1]."""
    first_length = slots.generated
    turns = kv_cache.turns(model_config, slots.caches)

    def body(slots: Slots, _: None) -> tuple[Slots, tuple[jax.Array, ...]]:
        out = (slots.token, slots.active, slots.logprob)
        slots = dataclasses.replace(slots, active=slots.active & ~decode.ends(config, slots))
        return decode.decode_step(config, model_config, params, turns, slots), out

    slots, (token, valid, logprob) = jax.lax.scan(body, slots, length=steps)
    bits = jax.lax.bitcast_convert_type(logprob, jnp.int32)
    columns = [token.T, valid.T.astype(jnp.int32), first_length[:, None], bits.T]
    return slots, jnp.concatenate(columns, axis=1)
