"""A connection to the speech server: HTTP/1.1 by uvicorn's parser, with nothing else on its way.

aiohttp's client takes as long for a request as all the rest of the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

READ_BUFFER = 16 * 1024
"""Bytes of an answer that are held for a client that is slower than the server."""


class ServerConnection(asyncio.Protocol):
    """One connection, on which one request is answered after the other.

    Args:
        timeout: seconds without a byte of an answer after which it fails.
        lost: is called when the connection has ended.

    Attributes:
        status: of the answer; 0: it is not there yet.
        headers: of the answer, by their names in lower case.
        reusable: whether the answer is complete, and another request may follow.
    """

    def __init__(self, timeout: float, lost: Callable[[ServerConnection], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._lost = lost
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._begin()
        self.reusable = True

    def _begin(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._held = 0
        self._complete = self._paused = self.reusable = False

    def send(self, request: bytes) -> None:
        """Send a request, head and body."""
        self._begin()
        self._transport.write(request)
        self._heard_at = self._loop.time()
        if not self._timer:
            self._timer = self._loop.call_later(self._timeout, self._check_time)

    async def head(self) -> None:
        """Wait for the status and the headers.

        Raises:
            TimeoutError: they did not come in time.
            OSError: the connection was closed before, or what came is not HTTP.
        """
        while not self.status:
            if self._error:
                raise self._error
            await self._wait()

    async def read(self) -> bytes:
        """Return what has come of the body, as soon as there is something; nothing at its end.

        Raises:
            TimeoutError: nothing came for too long.
            OSError: it broke off.
        """
        while not self._chunks:
            if self._complete:
                return b""
            if self._error:
                raise self._error
            await self._wait()
        chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        self._resume()
        return chunk

    def close(self) -> None:
        """Close the connection at once."""
        self.reusable = False
        if self._timer:
            self._timer.cancel()
        self._transport.abort()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._heard_at = self._loop.time()
            self._transport.resume_reading()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self.close()
        self._wake()

    def _check_time(self) -> None:
        self._timer = None
        if self._complete:
            return  # the next request starts it again
        left = self._heard_at + self._timeout - self._loop.time()
        if left > 0 or self._paused:  # while it is paused, it is the client that is slow
            later = left if left > 0 else self._timeout
            self._timer = self._loop.call_later(later, self._check_time)
        else:
            self._fail(TimeoutError())

    # -- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self.reusable:  # nobody asked
            self.close()
            return
        self._heard_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(OSError("not HTTP"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end: of a body without a length it is what ends it."""
        self._complete = self._complete or bool(
            not exc and not self._error and self.status
            and not self.headers.keys() & {"content-length", "transfer-encoding"}
        )  # fmt: skip
        self._fail(exc or ConnectionResetError("closed"))
        self._lost(self)

    # -- httptools ---------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """End the head."""
        status = self._parser.get_status_code()
        if status < 200:  # such as 100 Continue: the answer follows
            self.headers.clear()
            return
        self.status = status
        self._wake()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._chunks.append(body)
        self._held += len(body)
        if not self._paused and self._held > READ_BUFFER:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        """End the answer."""
        if self.status:
            self._complete = True
            self.reusable = self._parser.should_keep_alive() and not self._error
            self._resume()
            self._wake()
