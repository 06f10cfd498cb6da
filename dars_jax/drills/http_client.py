"""Clients of the OpenAI server for drills/servers.py, good and bad, over plain sockets."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

PATH = "/v1/completions"


class HttpClients:
    """Whoever may come to an address."""

    api = "openai"

    def __init__(self, address: str, model: str):
        self._host, port = address.rsplit(":", 1)
        self._port, self._model = int(port), model

    async def ask(self, prompt: str, tokens: int, number: int) -> str:
        """A whole answer: greedy or seeded by the prompt, streamed or not by the number.

        Raises:
          ConnectionError: it did not come to its end, or was refused.
        """
        stream = number % 2 == 0
        async with self._open(self.request(prompt, tokens, stream=stream)) as (reader, _):
            status, body = await _response(reader)
        if status != 200:
            raise ConnectionError(f"{status}: {body[:200]!r}")
        if not stream:
            (choice,) = json.loads(body)["choices"]
            return choice["text"] + choice["finish_reason"]
        *events, done, _ = body.decode().split("\n\n")
        if done != "data: [DONE]":
            raise ConnectionError("the stream has no end")
        choices = [json.loads(e.removeprefix("data: "))["choices"][0] for e in events]
        return "".join(c["text"] + (c["finish_reason"] or "") for c in choices)

    async def leave(self, prompt: str, tokens: int, number: int) -> None:
        """Hangs up after the first part of a stream, or while an answer is being made."""
        stream = number % 2 == 0
        async with self._open(self.request(prompt, tokens, stream=stream)) as (reader, writer):
            if stream:
                await reader.readuntil(b"data: ")
            else:
                await asyncio.sleep(0.5)
            writer.transport.abort()

    async def take(self, prompt: str, tokens: int, answers: int, pace: float | None) -> None:
        """Asks for a long stream and reads all of it, or a byte every `pace` seconds.

        With pace None it reads nothing.  Comes to an end only if all is read or the server hung up.
        """
        data = self.request(prompt, tokens, stream=True, n=answers, logprobs=0)
        if pace == 0:
            async with self._open(data) as (reader, _):
                await drain(reader)
        else:
            await trickle(self._host, self._port, data, pace)

    async def wrong(self) -> dict[str, str]:
        """What came of each request that is none: `400 {"error"…`, or `closed`."""
        return {name: await self._send(data) for name, data in self._wrong().items()}

    async def silent(self) -> dict[str, float]:
        """Seconds until a connection was closed on which something is missing."""
        whole = self.request("1", 1, stream=False)
        cases = {"nothing": b"", "half a head": whole[:30], "half a body": whole[:-5]}
        return await until_closed(self._host, self._port, cases)

    async def flood(self) -> str:
        """What came of bodies without end: with a length, and in chunks."""
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n"
        length = head + f"Content-Length: {1 << 40}\r\n\r\n"
        chunked = head + "Transfer-Encoding: chunked\r\n\r\n"
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        return ", ".join(
            [await self._send(length.encode(), b" " * (1 << 20), 64),
             await self._send(chunked.encode(), chunk, 64)]
        )  # fmt: skip

    async def refused(self) -> bool:
        """Whether a new client is turned away."""
        try:
            await self.ask("1", 1, 1)
        except (OSError, asyncio.IncompleteReadError):
            return True
        return False

    def request(self, prompt: str, tokens: int, **fields: Any) -> bytes:
        """A good one."""
        seeded = {"temperature": 1, "seed": len(prompt)} if len(prompt) % 2 else {"temperature": 0}
        asked = {"model": self._model, "prompt": prompt, "max_tokens": tokens, **seeded, **fields}
        return _post(json.dumps(asked).encode())

    def _wrong(self) -> dict[str, bytes]:
        good = {"model": self._model, "prompt": "1", "max_tokens": 1}

        def body(**fields: Any) -> bytes:
            return _post(json.dumps(good | fields).encode())

        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode()
        too_much = head + b"Content-Length: 9000000000\r\nTransfer-Encoding: chunked\r\n\r\n"
        return {
            "no JSON": _post(b"{"),
            "nothing": _post(b""),
            "a list": _post(b"[1]"),
            "deep": _post(b"[" * 100_000),
            "deep field": _post(b'{"metadata":' + b"[" * 100_000),
            "not UTF-8": _post(b'{"model":"\xff\xfe"}'),
            "half a character": _post(b'{"model":"\\ud800"}'),
            "NaN": body(temperature=float("nan")),
            "infinity": body(top_p=float("inf")),
            "negative max_tokens": body(max_tokens=-1),
            "huge max_tokens": body(max_tokens=10**400),
            "text for a number": body(max_tokens="1"),
            "field of 1 MB": body(**{"x\n" * 500_000: 1}),
            "unknown field": body(speed=1),
            "model of 1 MB": body(model="x\n" * 500_000),
            "prompt of 8 MB": body(prompt="1 " * 4_000_000),
            "1,000,000 prompts": body(prompt=["1"] * 1_000_000),
            "token of 400 digits": body(prompt=[10**400]),
            "wrong path": b"GET /../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
            "wrong method": f"DELETE {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
            "no HTTP": b"\x16\x03\x01" * 100 + b"\r\n\r\n",
            "HTTP/9": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
            "100,000 headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 100_000 + b"\r\n",
            "header of 1 MB": b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 1_000_000 + b"\r\n\r\n",
            "two lengths": head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
            "negative length": head + b"Content-Length: -1\r\n\r\n",
            "chunk of no size": head + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
            "refused, then a chunk of no size": too_much + b"x\r\n" * 9,
            "bad chunk after 413": head + b"Transfer-Encoding: chunked\r\n\r\n900000\r\n"
            + b" " * 0x900000 + b"\r\nx\r\n",
            "websocket": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n",
        }  # fmt: skip

    @contextlib.asynccontextmanager
    async def _open(
        self, data: bytes
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(data)
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _send(self, data: bytes, more: bytes = b"", times: int = 0) -> str:
        """Sends it, and more of it up to a reply -> the reply in short."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async with self._open(data) as (reader, writer):
                answer = asyncio.create_task(_response(reader))
                for _ in range(times):
                    if answer.done():
                        break
                    writer.write(more)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(writer.drain(), 5)
                    await asyncio.sleep(0)
                status, body = await asyncio.wait_for(answer, 30)
                return f"{status} {body.decode(errors='replace')}"
        return "closed"


def _post(body: bytes) -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body.

    Raises:
      asyncio.IncompleteReadError: it has no end.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split()[1])
    if b"content-length:" in head:
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        return status, await reader.readexactly(length)
    if b"chunked" not in head:
        return status, await reader.read()
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    return status, body


async def drain(reader: asyncio.StreamReader) -> None:
    """Reads to the end."""
    while await reader.read(1 << 16):
        pass


async def trickle(host: str, port: int, data: bytes, pace: float | None) -> None:
    """Sends a request and reads a byte every `pace` seconds, or nothing, through small buffers."""
    loop = asyncio.get_running_loop()
    with socket.socket() as link, contextlib.suppress(OSError):
        link.setblocking(False)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(link, (host, port))
        await loop.sock_sendall(link, data)
        while pace is None or await loop.sock_recv(link, 1):
            await asyncio.sleep(pace or 1)


async def until_closed(host: str, port: int, cases: dict[str, bytes]) -> dict[str, float]:
    """Seconds for which the server kept each connection on which only so much was sent."""

    async def wait(data: bytes) -> float:
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(data)
            await asyncio.wait_for(drain(reader), 120)
            writer.close()
        return round(time.monotonic() - begin, 1)

    seconds = await asyncio.gather(*map(wait, cases.values()))
    return dict(zip(cases, seconds, strict=True))
