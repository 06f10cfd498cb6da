"""The policy behind JetStream's own gRPC service: client ─► Orchestrator ─► Driver."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from threading import Thread
from typing import Any

import grpc
from jetstream.core.proto import jetstream_pb2, jetstream_pb2_grpc

from dars_jax.engine.driver import Driver, orchestrator
from dars_jax.engine.jetstream_engine import PolicyEngine
from dars_jax.engine.text import TextStream
from dars_jax.policy import decoder


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
        async for response in super().Decode(plain, context):
            (sample,) = response.stream_content.samples
            new = sample.token_ids
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
