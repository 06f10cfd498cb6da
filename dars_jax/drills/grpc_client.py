"""Clients of the gRPC server for drills/servers.py: good ones and bad ones, and bare HTTP/2."""

import asyncio
import os
import struct
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it reports each client that is cut

import grpc

from dars_jax.drills.http_client import trickle, until_closed
from dars_jax.engine import client

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_NO_WINDOW = struct.pack(">HI", 4, 0)  # the setting that lets the server send no answer


class GrpcClients:
    """Whoever may come to an address."""

    api = "jetstream"

    def __init__(self, address: str, _: str):
        self._address = address
        self._host, port = address.rsplit(":", 1)
        self._port = int(port)

    async def ask(self, prompt: str, tokens: int, number: int) -> str:
        """A whole answer, over a connection of its own.

        Raises:
          ConnectionError: it did not come to its end, or was refused.
        """
        async with self._channel() as channel:
            try:
                replies = client.decode(channel)(client.message(prompt, tokens), timeout=300)
                return str([i async for reply in replies for i in client.ids(reply)])
            except grpc.RpcError as error:
                raise ConnectionError(str(error)) from error

    async def leave(self, prompt: str, tokens: int, number: int) -> None:
        """Hangs up after the first part, or while it waits for one."""
        async with self._channel() as channel:
            call = client.decode(channel)(client.message(prompt, tokens))
            if number % 2 == 0:
                await call.read()
            else:
                await asyncio.sleep(0.5)

    async def take(self, prompt: str, tokens: int, answers: int, pace: float | None) -> None:
        """Asks for answers and reads them, or gives the server no room to send any.

        With a pace it reads what else the server sends, a byte every so many seconds.
        """
        message = client.message(prompt, tokens)
        if pace == 0:
            await asyncio.gather(*(self.ask(prompt, tokens, 0) for _ in range(answers)))
            return
        data = _PREFACE + _frame(_SETTINGS, 0, 0, _NO_WINDOW)
        for stream in range(1, 2 * answers, 2):
            data += _ask(stream, message)
        await trickle(self._host, self._port, data, pace)

    async def wrong(self) -> dict[str, str]:
        """What came of each request that is none: `INVALID_ARGUMENT max_tokens…`."""
        ids = client.message
        cases: dict[str, tuple[str, bytes]] = {
            "no message": (client.DECODE, b"\xff" * 100),
            "nothing": (client.DECODE, b""),
            "negative max_tokens": (client.DECODE, ids([1], -1)),
            "huge max_tokens": (client.DECODE, ids([1], 2**31 - 1)),
            "no ids": (client.DECODE, ids([], 1)),
            "negative id": (client.DECODE, ids([-1], 1)),
            "not UTF-8": (client.DECODE, ids("aaaa", 1).replace(b"aaaa", b"\xff\xfe\xff\xfe")),
            "1,000,000 ids": (client.DECODE, ids([1] * 1_000_000, 1)),
            "text of 60 KB": (client.DECODE, ids("1 " * 30_000, 1)),
            "text of 8 MB": (client.DECODE, ids("1 " * 4_000_000, 1)),
            "unknown method": ("/jetstream_proto.Orchestrator/Steal", b""),
            "unknown service": ("/x", b""),
        }
        came = {name: await self._send(*case) for name, case in cases.items()}
        came["metadata of 1 MB"] = await self._send(
            client.DECODE, ids([1], 1), [(f"k{i}", "x" * 1000) for i in range(1000)]
        )
        bare = {
            "HTTP/1.1": b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", "noise": b"\x16\x03\x01" * 9999,
            "frames of noise": _PREFACE + b"\xff" * 9999,
            "frame of 16 MB": _PREFACE + b"\xff\xff\xff" + bytes(6),
        }  # fmt: skip
        kept = await until_closed(self._host, self._port, bare)
        return came | {name: "closed" if s < 60 else "kept" for name, s in kept.items()}

    async def silent(self) -> dict[str, float]:
        """Seconds until a connection was closed on which something is missing."""
        hello = _PREFACE + _frame(_SETTINGS, 0, 0, b"")
        whole = hello + _ask(1, client.message([1], 1))
        cases = {
            "nothing": b"", "half a hello": _PREFACE[:9], "no request": hello,
            "half a request": whole[:-2],
        }  # fmt: skip
        return await until_closed(self._host, self._port, cases)

    async def flood(self) -> str:
        """What came of a message of 64 MB."""
        return await self._send(client.DECODE, b" " * (64 << 20))

    async def refused(self) -> bool:
        """Whether a new client is turned away."""
        try:
            await self.ask("1", 1, 1)
        except ConnectionError:
            return True
        return False

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            self._address, options=[("grpc.use_local_subchannel_pool", 1),
                                    ("grpc.max_metadata_size", 1 << 22)],
        )  # fmt: skip

    async def _send(self, method: str, data: bytes, metadata: Any = None) -> str:
        async with self._channel() as channel:
            try:
                async for _ in channel.unary_stream(method)(data, metadata=metadata, timeout=60):
                    pass
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name} {error.details()}"
        return "answered"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _ask(stream: int, message: bytes) -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": client.DECODE, ":authority": "x",
              "te": "trailers", "content-type": "application/grpc"}  # fmt: skip
    block = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return _frame(_HEADERS, _END_HEADERS, stream, block) + _frame(
        _DATA, _END_STREAM, stream, struct.pack(">BI", 0, len(message)) + message
    )
