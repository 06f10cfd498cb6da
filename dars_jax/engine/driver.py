"""JetStream's Driver over the policy: requests of every server share its slots.

    request ─► prefill queue ─► Driver's threads ─► PolicyEngine
            ◄─ return channel ◄─ detokenize thread ◄─ tokens

What google-jetstream 0.2.2 needs to be of service is corrected here.  A server refuses what the
Driver could not carry out before it gets there, since one of its threads that raises ends the whole
process with SIGKILL.
"""

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
from jetstream.core.utils.async_multifuture import AsyncMultifuture
from jetstream.core.utils.return_sample import ReturnSample
from jetstream.engine import engine_api

from dars_jax.engine.jetstream_engine import PolicyEngine, PolicyTokens
from dars_jax.engine.session import SamplingConfig
from dars_jax.policy import decoder

_root = logging.getLogger()
_level, _handlers = _root.level, list(_root.handlers)
from jetstream.core import orchestrator  # noqa: E402

# It turns everybody's debug messages on, prints them to standard output, and reports every step
# to the root logger.
_root.setLevel(_level)
_root.handlers[:] = _handlers
orchestrator.logging = logging.getLogger("jetstream")
orchestrator.logging.setLevel(logging.WARNING)


def _delete(tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        leaf.delete()


orchestrator.delete_pytree = _delete  # its own calls jax.tree_map, which is gone


@dataclasses.dataclass
class Ask(orchestrator.ActiveRequest):
    """A request with a sampling and a random stream of its own; None takes the engine's."""

    sampling: SamplingConfig | None = None
    stream: tuple[int, int, int, int, int] | None = None


@dataclasses.dataclass
class Piece(ReturnSample):
    """What one dispatch adds to an answer; its EOS is not part of it."""

    logprobs: list[float] = dataclasses.field(default_factory=list)
    end: str = ""  # "stop" at an EOS, "length" at the limit, "" if there is more to come


MOST_WAITING = 1 << 14  # answers; a few KB each
Channel: TypeAlias = AsyncMultifuture[list[Piece]]


class Driver(orchestrator.Driver):
    """JetStream's Driver over one engine that prefills and generates."""

    def __init__(
        self,
        engine: PolicyEngine,
        params: decoder.Params,
        failed: Callable[[Exception], None],
    ):
        """`failed` is called from a thread that cannot go on; the others then wait for `stop`."""
        self._failed = failed
        super().__init__([engine], [engine], [params], [params], interleaved_mode=True)
        self._prefill_backlog.maxsize = MOST_WAITING

    @property
    def waiting(self) -> int:
        """Answers that have not been begun."""
        return self._prefill_backlog.qsize()

    def ask(
        self,
        ids: Sequence[int],
        sampling: SamplingConfig,
        stream: tuple[int, int, int, int, int] | None = None,
    ) -> Channel:
        """Its answer, piece by piece, one to a list; call it in the event loop that reads them.

        Canceling the channel gives the slot back at the next dispatch.

        Raises:
          queue.Full: MOST_WAITING others wait.
        """
        channel: Channel = AsyncMultifuture()
        self.place_request_on_prefill_queue(
            Ask(max_tokens=sampling.max_tokens, return_channel=channel, prefill_content=ids,
                sampling=sampling, stream=stream)
        )  # fmt: skip
        return channel

    def _prefill(self, idx: int) -> None:
        """JetStream's own puts a BOS in front of ids, and knows neither sampling nor stream.

        A client that has gone costs no prefill, but its request keeps its number.
        """
        engine, params = self._prefill_engines[idx], self._prefill_params[idx]
        tokenizer = engine.build_tokenizer(engine.get_tokenizer())
        while self.live and (request := self._prefill_backlog.get()) is not None:
            if request.return_channel.cancelled():
                engine.pass_over(getattr(request, "stream", None))
                continue
            tokens, length = tokenizer.pad(request.prefill_content, self._jax_padding)
            own = {}
            if isinstance(request, Ask):
                own = {"sampling": request.sampling, "stream": request.stream}
            request.prefill_result = engine.prefill(
                params=params, padded_tokens=tokens, true_length=length, **own
            )
            self._transfer_backlogs[idx].put(request)

    def _detokenize(self, idx: int) -> None:
        """JetStream's own drops log-probs, and decodes on for a client that has gone."""
        engine, free = self._generate_engines[idx], self._generate_slots[idx]
        stops = engine.build_tokenizer(engine.get_tokenizer()).stop_tokens
        taken: dict[int, orchestrator.ActiveRequest] = {}
        while self.live and (data := self._detokenize_backlogs[idx].get()) is not None:
            slot, item = data
            if not isinstance(item, engine_api.ResultTokens):
                taken[slot] = item
                continue
            tokens, loop = item.convert_to_numpy(), None
            for slot, request in list(taken.items()):
                gone = request.return_channel.cancelled()
                if not gone:
                    piece = _piece(tokens, slot, request.max_tokens, stops)
                    request.max_tokens -= len(piece.token_ids)
                    request.return_channel.add_result([piece])
                    loop = request.return_channel._loop
                if gone or piece.end:
                    request.return_channel.close()
                    del taken[slot]
                    free.put(slot, block=False)
            if loop is not None:
                self._wait_for(loop)

    def _wait_for(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until the event loop has what it was given.

        A fast engine would leave it behind by many seconds, in which it takes no new client.
        """
        done = threading.Event()
        with contextlib.suppress(RuntimeError):  # it is closed: so is the server, soon
            loop.call_soon_threadsafe(done.set)
            while self.live and not done.wait(0.1):
                pass

    def _generate(self, idx: int) -> None:
        slots = self._generate_slots[idx]
        while self.live:
            try:
                super()._generate_thread(idx)
            except AssertionError:
                # It asserts that some slot is taken after it has looked for new requests, but the
                # last answer may end in between.  Nothing is in work then: start over.
                if slots.qsize() < self._generate_engines[idx].max_concurrent_decodes:
                    raise

    def _prefill_thread(self, idx: int) -> None:
        self._guard(self._prefill, idx)

    def _transfer_thread(self, idx: int) -> None:
        self._guard(super()._transfer_thread, idx)

    def _generate_thread(self, idx: int) -> None:
        self._guard(self._generate, idx)

    def _detokenize_thread(self, idx: int) -> None:
        self._guard(self._detokenize, idx)

    def _guard(self, run: Callable[[int], None], idx: int) -> None:
        try:
            run(idx)
        except Exception as error:
            self.live = False
            self._failed(error)


def _piece(tokens: PolicyTokens, slot: int, left: int, stops: set[int]) -> Piece:
    """A slot's newest tokens, at most `left` and none after its last one."""
    data = tokens.get_result_at_slot(slot)
    piece = Piece(text=[], token_ids=[])
    for token, valid, logprob in zip(
        data.tokens[0], data.valid[0], tokens.logprobs(slot), strict=True
    ):
        if valid and int(token) in stops:
            piece.end = "stop"
            return piece
        if valid:
            piece.token_ids.append(int(token))
            piece.logprobs.append(float(logprob))
        if not valid or len(piece.token_ids) == left:
            piece.end = "length"
            return piece
    return piece
