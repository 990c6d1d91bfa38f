"""A listener to one stream of sound, who notes when it starts and whether it stops."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, cast

BYTES_PER_SECOND = 48_000
PREBUFFER_SECONDS = 0.2


@dataclass(frozen=True)
class Target:
    """What is asked: a name, where, how, and whose memory counts."""

    name: str
    port: int
    path: str
    body: dict[str, Any]
    process: int | None = None


@dataclass
class Listener(asyncio.Protocol):
    """One stream, as a player hears it."""

    ended: asyncio.Future[None]
    request: bytes
    transport: asyncio.Transport | None = None
    sent: float = 0.0
    first: float = 0.0
    size: int = 0
    late: float = 0.0
    status: bytes = b""
    complete: bool = False
    head: bytes = field(default=b"", repr=False)
    tail: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ask()

    def ask(self) -> None:
        """Send the request."""
        if self.transport:
            self.sent = time.perf_counter()
            self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.status:
            self.head += data
            head, found, data = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            self.status = head[9:12]
        if data and not self.first:
            self.first = now
        if self.first:
            played = now - self.first - PREBUFFER_SECONDS
            self.late = max(self.late, played - self.size / BYTES_PER_SECOND)
        self.size += len(data)
        self.tail = (self.tail + data[-7:])[-7:]
        self.complete = self.tail == b"\r\n0\r\n\r\n"
        if self.complete and not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        """Close the connection."""
        if self.transport:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.ended.done():
            self.ended.set_result(None)


async def listen(target: Target, kept: Listener | None = None, *, keep: bool = False) -> Listener:
    """Ask for one stream and hear it to its end.

    Args:
        target: what is asked.
        kept: an earlier listener, whose connection is used again.
        keep: leave the connection open.
    """
    loop = asyncio.get_running_loop()
    if kept:
        listener = Listener(loop.create_future(), kept.request, kept.transport)
        if kept.transport:
            kept.transport.set_protocol(listener)
        listener.ask()
    else:
        body = json.dumps(target.body).encode()
        request = (
            f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        _, listener = await loop.create_connection(
            lambda: Listener(loop.create_future(), request), "127.0.0.1", target.port
        )
    try:
        async with asyncio.timeout(120):
            await listener.ended
    finally:
        if not keep:
            listener.close()
    return listener
