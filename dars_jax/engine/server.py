"""The policy behind JetStream's own gRPC service: client ─► Orchestrator ─► Driver."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from threading import Thread
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from jetstream.core.proto import jetstream_pb2

from dars_jax.engine.driver import MOST_WAITING, Driver, orchestrator
from dars_jax.engine.jetstream_engine import PolicyEngine
from dars_jax.engine.text import TextStream
from dars_jax.policy import decoder

SECONDS = 30  # for a client to say hello, and to answer a ping


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
        self, request: jetstream_pb2.DecodeRequest | None, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[jetstream_pb2.DecodeResponse]:
        """Streams an answer: ids always, text too where the prompt was text.

        A prompt of ids is taken as it is; one of text is encoded as training encodes it.  EOS is
        not part of the stream.  A request that cannot be answered ends as INVALID_ARGUMENT.
        """
        try:
            ids = self._prompt(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        assert request is not None  # for `abort` raises
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

    def _prompt(self, request: jetstream_pb2.DecodeRequest | None) -> list[int]:
        """Its tokens; ValueError says why it cannot be answered."""
        engine = self._engine
        if request is None:
            raise ValueError("the message is not a DecodeRequest")
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


def _handlers(service: Orchestrator) -> grpc.GenericRpcHandler:
    """The service, which gets None for a message of noise, where gRPC would log a traceback."""

    def read(kind: type[Any]) -> Callable[[bytes], Any]:
        def one(data: bytes) -> Any:
            try:
                return kind.FromString(data)
            except DecodeError:
                return None

        return one

    pb = jetstream_pb2
    return grpc.method_handlers_generic_handler("jetstream_proto.Orchestrator", {
        "Decode": grpc.unary_stream_rpc_method_handler(
            service.Decode, read(pb.DecodeRequest), pb.DecodeResponse.SerializeToString),
        "HealthCheck": grpc.unary_unary_rpc_method_handler(
            service.HealthCheck, read(pb.HealthCheckRequest),
            pb.HealthCheckResponse.SerializeToString),
    })  # fmt: skip


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
            self._grpc, self.address = self._wait(_bind(host, port, _limits(engine)))
        except OSError:
            self._end_loop()
            raise
        self._driver = Driver(engine, params, failed)
        service = Orchestrator(self._driver, engine, encode, decode)
        self._grpc.add_generic_rpc_handlers((_handlers(service),))
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


def _limits(engine: PolicyEngine) -> dict[str, int]:
    """gRPC's own means against clients that are too large, or that neither speak nor listen."""
    return {
        "grpc.max_receive_message_length": max(1 << 16, 64 * engine.max_prefill_length),
        "grpc.server_handshake_timeout_ms": SECONDS * 1000,
        # A client whose end does not even answer a ping is cut, its answers with it.
        "grpc.keepalive_time_ms": SECONDS * 1000,
        "grpc.keepalive_timeout_ms": SECONDS * 1000,
        "grpc.keepalive_permit_without_calls": 1,
    }


async def _bind(host: str, port: int, limits: dict[str, int]) -> tuple[grpc.aio.Server, str]:
    name = f"[{host}]" if ":" in host else host
    # Without the option a second server would share the port and get every other request.
    options = [("grpc.so_reuseport", 0), *limits.items()]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MOST_WAITING)
    try:
        got = server.add_insecure_port(f"{name}:{port}")
    except RuntimeError as error:
        raise OSError(f"cannot listen on {name}:{port}: {error}") from error
    return server, f"{name}:{got}"
