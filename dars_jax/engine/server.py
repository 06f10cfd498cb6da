"""The policy behind JetStream's own Driver and gRPC service.

    client ─► Orchestrator ─► prefill queue ─► Driver's threads ─► PolicyEngine
           ◄─ ids and text ◄─ return channel ◄─ detokenize thread ◄─ tokens

What google-jetstream 0.2.2 needs to be of service is corrected here: a request that the Driver
could not carry out is refused before it gets there, since a Driver thread that raises ends the
whole process with SIGKILL.
"""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from threading import Thread
from typing import Any

import grpc
import jax
from jetstream.core.proto import jetstream_pb2, jetstream_pb2_grpc

from dars_jax.engine.jetstream_engine import JetStreamTokenizer, PolicyEngine
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

    def _process_prefill_content(
        self,
        request: orchestrator.ActiveRequest,
        tokenizer: JetStreamTokenizer,
        is_bos: bool,
        max_prefill_length: int,
    ) -> tuple[Any, int]:
        # JetStream's own puts a BOS in front of ids, and knows powers of two only.
        return tokenizer.pad(request.prefill_content, self._jax_padding)

    def _prefill_thread(self, idx: int) -> None:
        self._guard(super()._prefill_thread, idx)

    def _transfer_thread(self, idx: int) -> None:
        self._guard(super()._transfer_thread, idx)

    def _detokenize_thread(self, idx: int) -> None:
        self._guard(super()._detokenize_thread, idx)

    def _generate_thread(self, idx: int) -> None:
        self._guard(self._generate, idx)

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

    def _guard(self, run: Callable[[int], None], idx: int) -> None:
        try:
            run(idx)
        except Exception as error:
            self.live = False
            self._failed(error)


@dataclasses.dataclass
class TextStream:
    """Ids to text piece by piece; the pieces add up to the text of all ids."""

    decode: Callable[[Sequence[int]], str]
    _window: list[int] = dataclasses.field(default_factory=list)  # ids that decide what comes next
    _shown: int = 0  # ids of the window whose text is out

    def add(self, ids: Sequence[int], last: bool = False) -> str:
        """The text that more ids add, less a character of which bytes may be missing."""
        self._window += ids
        old, new = self.decode(self._window[: self._shown]), self.decode(self._window)
        if len(new) <= len(old) or (new.endswith("\ufffd") and not last):
            return ""
        # A piece alone would lose its leading space: the ids before it stay in view.
        self._window = self._window[self._shown :]
        self._shown = len(self._window)
        return new[len(old) :]


class Orchestrator(orchestrator.LLMOrchestrator):
    """JetStream's service, which refuses what cannot be answered and keeps to `max_tokens`."""

    def __init__(
        self,
        driver: Driver,
        engine: PolicyEngine,
        encode: Callable[[str], Iterable[int]],
        decode: Callable[[Sequence[int]], str],
    ):
        super().__init__(driver)
        self._engine, self._encode, self._decode = engine, encode, decode

    async def Decode(
        self, request: jetstream_pb2.DecodeRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[jetstream_pb2.DecodeResponse]:
        """Streams an answer: ids always, text too where the prompt was text.

        A prompt of ids is taken as it is; one of text is encoded as training encodes it.  EOS is
        not part of the stream.  A request that cannot be answered ends as INVALID_ARGUMENT.
        """
        try:
            ids = self._prompt(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if not self._driver.live:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        content = jetstream_pb2.DecodeRequest.TokenContent(token_ids=ids)
        plain = jetstream_pb2.DecodeRequest(max_tokens=request.max_tokens, token_content=content)
        text = TextStream(self._decode) if request.HasField("text_content") else None
        left = request.max_tokens
        async for response in super().Decode(plain, context):
            (sample,) = response.stream_content.samples
            # With K tokens a dispatch the Driver notices only at the next one that it is enough.
            new = sample.token_ids[:left]
            left -= len(new)
            if new:
                yield _response(new, text.add(new) if text else "")
        if text and (rest := text.add([], last=True)):
            yield _response([], rest)

    def _prompt(self, request: jetstream_pb2.DecodeRequest) -> list[int]:
        """Its tokens; ValueError says why it cannot be answered."""
        engine = self._engine
        if request.session_cache:
            raise ValueError("session_cache is not supported: send the whole prompt")
        if not 1 <= request.max_tokens <= engine.max_answer_length:
            raise ValueError(
                f"max_tokens is {request.max_tokens}: 1 to {engine.max_answer_length} are possible"
            )
        if request.HasField("text_content"):
            ids = [int(i) for i in self._encode(request.text_content.text)]
        else:
            ids = list(request.token_content.token_ids)
        if not ids:
            raise ValueError("the prompt is empty: text_content or token_content is needed")
        if len(ids) > engine.max_prefill_length:
            raise ValueError(
                f"prompt of {len(ids)} tokens: at most {engine.max_prefill_length} fit"
            )
        for i in ids:
            if not 0 <= i < engine.vocab_size:
                raise ValueError(f"token id {i}: the vocabulary has 0 to {engine.vocab_size - 1}")
        return ids


def _response(ids: Sequence[int], text: str) -> jetstream_pb2.DecodeResponse:
    content = jetstream_pb2.DecodeResponse.StreamContent
    sample = content.Sample(token_ids=ids, text=text)
    return jetstream_pb2.DecodeResponse(stream_content=content(samples=[sample]))


class Server:
    """A running server.  Its threads are gone after `stop`."""

    def __init__(
        self,
        engine: PolicyEngine,
        params: decoder.Params,
        encode: Callable[[str], Iterable[int]],
        decode: Callable[[Sequence[int]], str],
        *,
        host: str,
        port: int,
        failed: Callable[[Exception], None],
    ):
        """Answers from now on.

        Args:
          params: as `engine.load_params` gives them.
          encode: text of a prompt -> ids; its ValueError is the client's.
          decode: ids of an answer -> text.
          port: 0 takes a free one.
          failed: called from another thread when the server cannot go on; then `stop` it.

        Raises:
          OSError: the address cannot be had.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="grpc", daemon=True)
        self._thread.start()
        try:
            self._grpc, self.address = self._wait(_bind(host, port))
        except OSError:
            self._end_loop()
            raise
        self._driver = Driver(engine, params, failed)
        service = Orchestrator(self._driver, engine, encode, decode)
        jetstream_pb2_grpc.add_OrchestratorServicer_to_server(service, self._grpc)
        self._wait(self._grpc.start())

    def stop(self, grace: float = 10.0) -> None:
        """Takes no more requests, gives those in work `grace` seconds, ends the threads."""
        self._wait(self._grpc.stop(grace if self._driver.live else None))
        self._driver.stop()
        del self._grpc
        self._end_loop()

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _bind(host: str, port: int) -> tuple[grpc.aio.Server, str]:
    name = f"[{host}]" if ":" in host else host
    # Without the option a second server would share the port and get every other request.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    try:
        got = server.add_insecure_port(f"{name}:{port}")
    except RuntimeError as error:
        raise OSError(f"cannot listen on {name}:{port}: {error}") from error
    return server, f"{name}:{got}"
