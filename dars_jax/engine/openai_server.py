"""The policy behind OpenAI's HTTP interface: starlette and uvicorn over JetStream's Driver."""

import asyncio
import json
import logging
import math
import queue
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dars_jax.data.tokenizer import Tokenizer
from dars_jax.engine import http_limits, openai_replies, openai_requests
from dars_jax.engine.driver import MOST_WAITING, Driver
from dars_jax.engine.jetstream_engine import PolicyEngine
from dars_jax.engine.openai_replies import ChatReplies, Part, Replies, Scores
from dars_jax.engine.openai_requests import ChatRequest, CompletionRequest, Job, Limits, Refusal
from dars_jax.engine.text import StopText, TextStream
from dars_jax.policy import decoder

_log = logging.getLogger(__name__)

_LARGE = 1 << 16  # bytes of a body that takes a thread
_SEEDED = -3  # stands where rollouts have their step: streams of requests with a seed of their own


class Api:
    """The routes, over a Driver at work."""

    def __init__(
        self,
        driver: Driver,
        engine: PolicyEngine,
        params: decoder.Params,
        tokenizer: Tokenizer,
        model: str,
    ):
        self._driver, self._engine, self._params = driver, engine, params
        self._tokenizer = tokenizer
        self._limits = Limits(model, engine.max_prefill_length, engine.max_answer_length,
                              engine.vocab_size, engine.sampling)  # fmt: skip
        self._bodies = http_limits.Bodies()
        self._scoring = asyncio.Lock()  # logits of one prompt at a time
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/models/{model:path}", self._model),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ],
            exception_handlers={
                Refusal: _refused, HTTPException: _http_error, ClientDisconnect: _gone_away,
                Exception: _failed,
            },
        )  # fmt: skip

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name != self._limits.model:
            raise Refusal(f"the model {name!r} is not here", "model", 404, "model_not_found")
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {"id": self._limits.model, "object": "model", "created": 0, "owned_by": "dars_jax"}

    async def _completions(self, request: Request) -> Response:
        return await self._reply(request, await self._job(request, CompletionRequest), Replies)

    async def _chat(self, request: Request) -> Response:
        return await self._reply(request, await self._job(request, ChatRequest), ChatReplies)

    async def _job(
        self, request: Request, kind: type[CompletionRequest] | type[ChatRequest]
    ) -> Job:
        def run(body: bytes) -> Job:
            asked = openai_requests.parse(kind, body, self._limits)
            return asked.job(self._tokenizer, self._limits)

        async with self._bodies.of(request) as body:
            if len(body) <= _LARGE:
                return run(body)
            return await asyncio.to_thread(run, body)  # MBs take seconds

    async def _reply(self, request: Request, job: Job, kind: type[Replies]) -> Response:
        if not self._driver.live:
            raise Refusal("the server is stopping", status=503)
        if self._driver.waiting + len(job.prompts) * job.n > MOST_WAITING:
            raise _busy()
        replies = kind(job, self._limits.model, self._tokenizer.decode)
        if job.stream:
            events = self._events(request, job, replies)
            return StreamingResponse(events, media_type="text/event-stream")
        answers: list[list[Part]] = [[] for _ in range(len(job.prompts) * job.n)]
        async for index, part in self._parts(request, job):
            answers[index].append(part)
        scores: list[Scores] = []
        if job.echo and job.logprobs is not None:
            scores = [await self._score(ids) for ids in job.prompts]
        return JSONResponse(replies.whole([openai_replies.whole(a) for a in answers], scores))

    async def _events(self, request: Request, job: Job, replies: Replies) -> AsyncIterator[str]:
        try:
            async for index, part in self._parts(request, job):
                yield _event(replies.chunk(index, part))
        except ClientDisconnect:
            return
        if job.usage:
            yield _event(replies.last_chunk())
        yield "data: [DONE]\n\n"

    async def _parts(self, request: Request, job: Job) -> AsyncIterator[tuple[int, Part]]:
        """Parts of all answers as they come, with the number of their choice.

        Raises:
          ClientDisconnect: nobody listens any more; the slots are given back.
        """
        news: asyncio.Queue[tuple[int, Part] | BaseException] = asyncio.Queue()

        async def follow(index: int) -> None:
            try:
                async for part in self._answer(job, index):
                    news.put_nowait((index, part))
            except queue.Full:  # others were faster
                news.put_nowait(_busy())
            except Exception as error:
                news.put_nowait(error)

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            news.put_nowait(ClientDisconnect())

        left = len(job.prompts) * job.n
        tasks = [asyncio.create_task(follow(index)) for index in range(left)]
        tasks.append(asyncio.create_task(watch()))
        try:
            while left:
                new = await news.get()
                if isinstance(new, BaseException):
                    raise new
                left -= bool(new[1].end)
                yield new
        finally:
            for task in tasks:
                task.cancel()

    async def _answer(self, job: Job, index: int) -> AsyncIterator[Part]:
        """One answer, up to its EOS, its limit or a stop sequence."""
        if not job.sampling.max_tokens:
            yield Part("", [], [], "length")
            return
        prompt, sample = divmod(index, job.n)
        stream = None
        if job.seed is not None:
            stream = (job.seed % 2**31, _SEEDED, 0, prompt, sample)
        text, stop = TextStream(self._tokenizer.decode), StopText(job.stop)
        channel = self._driver.ask(job.prompts[prompt], job.sampling, stream)
        try:
            async for (piece,) in channel:
                said = stop.add(text.add(piece.token_ids, bool(piece.end)), bool(piece.end))
                end = "stop" if stop.stopped else piece.end
                yield Part(said, piece.token_ids, piece.logprobs, end)
                if end:
                    return
        finally:
            channel.cancel()

    async def _score(self, ids: tuple[int, ...]) -> Scores:
        def run() -> Scores:
            padded, length = self._engine.pad(ids)
            arrays = self._engine.score(self._params, padded)
            return Scores(*(np.asarray(a)[: length - 1] for a in arrays))

        async with self._scoring:
            return await asyncio.to_thread(run)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _busy() -> Refusal:
    return Refusal(f"{MOST_WAITING} answers are waiting already: ask later", status=503)


def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return JSONResponse(openai_replies.error(refusal), refusal.status)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = Refusal(error.detail, status=error.status_code)
    return JSONResponse(openai_replies.error(refusal), error.status_code, error.headers)


def _failed(_: Request, error: Exception) -> Response:
    _log.error("a request failed", exc_info=error)
    refusal = Refusal(f"{type(error).__name__}: {error}", status=500)
    return JSONResponse(openai_replies.error(refusal), 500)


def _gone_away(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


class OpenAIServer:
    """A running server.  Its threads are gone after `stop`."""

    def __init__(
        self,
        engine: PolicyEngine,
        params: decoder.Params,
        tokenizer: Tokenizer,
        model: str,
        *,
        host: str,
        port: int,
        failed: Callable[[Exception], None],
    ):
        """Answers from now on.

        Args:
          params: as `engine.load_params` gives them.
          model: the name that requests must give.
          port: 0 takes a free one.
          failed: called from another thread when the server cannot go on; then `stop` it.

        Raises:
          OSError: the address cannot be had.
        """
        self._socket = http_limits.listen(host, port)
        name, got = self._socket.getsockname()[:2]
        self.address = f"[{name}]:{got}" if ":" in name else f"{name}:{got}"
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="openai", daemon=True)
        self._thread.start()
        self._driver = Driver(engine, params, failed)
        self._wait(self._start(Api(self._driver, engine, params, tokenizer, model), failed))

    async def _start(self, api: Api, failed: Callable[[Exception], None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and isinstance(error := task.exception(), Exception):
                failed(error)

        # One thread: a second one would keep as much memory again as the largest body has taken.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "aside"))
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(api.app, lifespan="off", log_config=None, log_level="critical",
                           access_log=False, **http_limits.settings())
        )  # fmt: skip
        self._serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))
        self._serving.add_done_callback(ended)
        while not self._uvicorn.started and not self._serving.done():
            await asyncio.sleep(0.01)

    def stop(self, grace: float = 10.0) -> None:
        """Takes no more requests, gives those in work `grace` seconds, ends the threads."""
        self._wait(self._drain(grace if self._driver.live else 0.0))
        self._driver.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._socket.close()

    async def _drain(self, grace: float) -> None:
        self._uvicorn.config.timeout_graceful_shutdown = math.ceil(grace)
        self._uvicorn.should_exit = True
        await self._serving
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
