"""The HTTP server is safe from clients that are slow, silent, large or make no sense."""

import asyncio
import contextlib
import gc
import json
import logging
import socket
import threading
import time
import types

import pytest

pytest.importorskip("uvicorn", reason="pip install 'dars_jax[serve]'")

from serving import Words

from dars_jax.engine import http_limits, openai_requests, openai_server
from dars_jax.engine.driver import Piece
from dars_jax.engine.openai_requests import Refusal
from dars_jax.engine.session import SamplingConfig

GOOD = {"model": "tiny", "prompt": "1 2", "max_tokens": 4}
EVENT = b"data: "


class Channel:
    """Pieces as a Driver's channel gives them."""

    def __init__(self, left):
        self.left, self.cancelled = left, False

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(0)
        self.left -= 1
        if self.left < 0:
            raise StopAsyncIteration
        return (Piece(text=[], token_ids=[1], logprobs=[0.0], end="" if self.left else "length"),)

    def cancel(self):
        self.cancelled = True


class Driver:
    """Answers at once, without an engine."""

    live, waiting = True, 0

    def __init__(self, *_):
        self.channels = []

    def ask(self, ids, sampling, stream):
        self.channels.append(Channel(sampling.max_tokens))
        return self.channels[-1]

    def stop(self):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server whose answers cost nothing; `limit(name=…)` before the first connection."""
    monkeypatch.setattr(openai_server, "Driver", Driver)
    engine = types.SimpleNamespace(max_prefill_length=8, max_answer_length=100_000, vocab_size=61,
                                   sampling=SamplingConfig(0.0, max_tokens=4))  # fmt: skip
    made = []

    def start(**limits):
        for name, value in limits.items():
            monkeypatch.setattr(http_limits, name, value)
        made.append(openai_server.OpenAIServer(engine, None, Words((0,)), "tiny",
                                               host="127.0.0.1", port=0, failed=print))  # fmt: skip
        return made[0]

    yield start
    made[0].stop(grace=0)


def connect(server, data=b"", buffer=None):
    link = socket.socket()
    if buffer:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    link.settimeout(20)
    host, port = server.address.split(":")
    link.connect((host, int(port)))
    link.sendall(data)
    return link


def post(body, *headers):
    lines = ["POST /v1/completions HTTP/1.1", "Host: x", "Connection: close", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def rest(link):
    got = b""
    with link, contextlib.suppress(ConnectionResetError):
        while piece := link.recv(1 << 16):
            got += piece
    return got


def served(server, **fields):
    return rest(connect(server, post(json.dumps(GOOD | fields).encode())))


def connections(server):
    return len(server._uvicorn.server_state.connections)


def eventually(true, seconds=20):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("data", [b"", b"POST /v1/comple"], ids=["nothing", "half a head"])
def test_who_sends_half_a_head_is_cut(server, data):
    s = server(SECONDS=0.2)
    assert rest(connect(s, data)) == b""
    assert b" 200 " in served(s)


def test_a_head_that_comes_byte_by_byte_is_no_excuse(server):
    s = server(SECONDS=0.3)
    with connect(s) as link, pytest.raises(OSError):
        for _ in range(100):
            link.sendall(b"G")
            time.sleep(0.05)


def test_half_a_body_is_refused_in_time(server):
    s = server(SECONDS=0.2)
    got = rest(connect(s, post(json.dumps(GOOD).encode())[:-3]))
    assert b" 408 " in got and b"was not there in 0.2 seconds" in got
    assert b" 200 " in served(s)


def test_an_answer_may_take_longer_than_a_request(server, monkeypatch):
    s = server(SECONDS=0.2)
    first = Channel.__anext__

    async def slow(self):
        await asyncio.sleep(0.15)
        return await first(self)

    monkeypatch.setattr(Channel, "__anext__", slow)
    assert b" 200 " in served(s)  # four times 0.15 s


def test_who_reads_nothing_is_cut_and_its_answers_go_back(server):
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("Linux")
    s = server(SECONDS=1)
    body = json.dumps(GOOD | dict(max_tokens=60_000, stream=True)).encode()
    with connect(s, post(body), buffer=4096):
        eventually(lambda: s._driver.channels)
        assert b" 200 " in served(s)  # others go on
        assert connections(s) == 1
        eventually(lambda: not connections(s))
        (channel, _) = s._driver.channels
        eventually(lambda: channel.cancelled)


def test_a_long_body_is_refused_by_its_length_alone(server):
    s = server(MOST_BYTES=1000)
    got = rest(connect(s, post(b"")[:-5] + b"1001\r\n\r\n"))
    assert b" 413 " in got


def test_a_long_body_in_chunks_is_refused_before_its_end(server):
    s = server(MOST_BYTES=1000)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(s, head + b"400\r\n" + b" " * 1024) as link:
        assert b" 413 " in link.recv(1 << 16)


def test_large_bodies_are_limited_together_and_forgotten(server):
    s = server(MOST_HELD=1500)
    body = json.dumps(GOOD | {"user": "x" * 1000}).encode()
    half = connect(s, post(body)[:-3])
    api = next(o for o in gc.get_objects() if isinstance(o, openai_server.Api)
               and o._driver is s._driver)  # fmt: skip
    eventually(lambda: api._bodies.held > 1000)
    assert b" 503 " in rest(connect(s, post(body)))
    assert b" 200 " in served(s)  # a small one
    half.close()
    eventually(lambda: not api._bodies.held)
    assert b" 200 " in rest(connect(s, post(body)))


def test_too_many_waiting_answers_are_refused(server, monkeypatch):
    s = server()
    monkeypatch.setattr(Driver, "waiting", openai_server.MOST_WAITING - 3)
    assert b" 503 " in served(s, n=4) and b" 200 " in served(s, n=3)


def test_a_broken_chunk_after_a_reply_leaves_no_traceback(server, caplog):
    s = server(MOST_BYTES=1000)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with caplog.at_level(logging.WARNING), connect(s, head + b"400\r\n" + b" " * 1024) as link:
        assert b" 413 " in link.recv(1 << 16)
        link.sendall(b"\r\nx\r\n")
        eventually(lambda: not connections(s))
    assert not caplog.records


def test_heads_without_end_are_refused(server):
    s = server()
    with connect(s) as link, contextlib.suppress(OSError):
        for _ in range(200):
            link.sendall(b"GET / HTTP/1.1\r\n" if not _ else b"a: " + b"b" * 1000 + b"\r\n")
        assert b" 400 " in rest(link)
    eventually(lambda: not connections(s))
    assert b" 200 " in served(s)


def test_large_bodies_are_parsed_one_at_a_time_beside_the_small_ones(server, monkeypatch):
    s, at_once = server(), []
    first, gate = openai_requests.parse, threading.Event()

    def slow(kind, body, limits):
        if len(body) > 1 << 16:
            at_once.append(threading.current_thread())
            assert gate.wait(20)
        return first(kind, body, limits)

    monkeypatch.setattr(openai_requests, "parse", slow)
    large = post(json.dumps(GOOD | {"user": "x" * 100_000}).encode())
    links = [connect(s, large) for _ in range(3)]
    eventually(lambda: at_once)
    assert b" 200 " in served(s)
    assert len(at_once) == 1
    gate.set()
    assert all(b" 200 " in rest(link) for link in links)
    assert len(set(at_once)) == 1


def test_many_that_go_away_leave_no_thread_and_no_connection(server):
    s = server()
    served(s)
    before = threading.active_count()
    body = json.dumps(GOOD | dict(max_tokens=50_000, stream=True)).encode()
    for _ in range(20):
        connect(s, post(body)).close()
    eventually(lambda: not connections(s))
    eventually(lambda: len(s._driver.channels) and all(c.cancelled for c in s._driver.channels))
    assert threading.active_count() == before


def test_a_reason_is_one_short_line():
    assert str(Refusal("a\nb " + "x" * 9999)) == "a b " + "x" * 296 + " …"
    limits = openai_requests.Limits("m", 8, 8, 61, SamplingConfig())
    body = json.dumps({"model": "m", "prompt": "1", "x\n" * 9999: 1}).encode()
    with pytest.raises(Refusal, match="not permitted") as error:
        openai_requests.parse(openai_requests.CompletionRequest, body, limits)
    assert len(str(error.value)) < 200 and "\n" not in str(error.value)
    assert len(error.value.param) < 100


def test_a_text_that_cannot_fit_is_not_turned_into_tokens():
    limits = openai_requests.Limits("m", 8, 8, 61, SamplingConfig())
    for prompt, words in (("1 " * 40_000, "80000 characters"), (["1"] * 2000, "2000 answers")):
        body = json.dumps({"model": "m", "prompt": prompt}).encode()
        asked = openai_requests.parse(openai_requests.CompletionRequest, body, limits)
        with pytest.raises(Refusal, match=words):
            asked.job(None, limits)  # a tokenizer is not even looked at
