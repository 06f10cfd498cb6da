"""What a connection of the HTTP server may cost: how long it may take, how much it may hold."""

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from dars_jax.engine.openai_requests import Refusal

SECONDS = 30  # for a request to be there, head and body each; and for a reader that takes nothing
MOST_BYTES = 8 << 20  # of a body
MOST_HELD = 128 << 20  # of all bodies that are being read or parsed


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; its connections break when their client has taken nothing for SECONDS.

    Only Linux can do the latter; elsewhere such a client is kept, without a slot.

    Raises:
      OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.create_server((host, port), family=family)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SECONDS * 1000))
    return made


class Punctual(H11Protocol):
    """Closes a connection on which no head of a request is there after SECONDS."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """A part of a head or a body has come."""
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """What has come is no HTTP; where a response has begun already, the connection breaks."""
        if self.cycle is not None and self.cycle.response_started:
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(SECONDS, self.transport.abort)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


@dataclasses.dataclass
class Bodies:
    """The bodies that are being read or parsed."""

    held: int = 0  # bytes

    @contextlib.asynccontextmanager
    async def of(self, request: Request) -> AsyncIterator[bytes]:
        """Its body, which counts as held in the context.

        Raises:
          Refusal: it is too large, too slow, or one too many.
        """
        body = bytearray()
        try:
            await self._read(request, body)
            yield bytes(body)
        finally:
            self.held -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        said = request.headers.get("content-length", "")
        if said.isdigit() and int(said) > MOST_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout(SECONDS):
                async for piece in request.stream():
                    if len(body) + len(piece) > MOST_BYTES:
                        raise _too_large()
                    if self.held + len(piece) > MOST_HELD:
                        raise Refusal("too many large requests at once: ask later", status=503)
                    body += piece
                    self.held += len(piece)
        except TimeoutError as error:
            raise Refusal(f"the request was not there in {SECONDS} seconds", status=408) from error


def _too_large() -> Refusal:
    return Refusal(f"a request may have {MOST_BYTES} bytes", status=413)


def settings() -> dict[str, Any]:
    """Those of uvicorn: heads of 64 KiB at most, which only h11 counts, and no websockets."""
    return {"http": Punctual, "ws": "none", "h11_max_incomplete_event_size": 64 << 10}
