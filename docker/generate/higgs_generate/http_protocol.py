"""uvicorn's fast HTTP/1.1 protocol, with limits for clients and errors in JSON."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import cast

from higgs_patches.lib.errors import error_body
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from higgs_generate.joined_writes import JoinedWrites

LARGEST_HEAD = 64 * 1024
"""Bytes of a request's head: the parser itself keeps headers without a limit."""


STALLED_SECONDS = 120.0
"""Time for which a client may read nothing before its connection is closed."""

log = logging.getLogger("higgs_generate")


class GenerateProtocol(HttpToolsProtocol):
    """Answers JSON to what is not HTTP.

    Closes the connection of a head that is too large, and of a client that reads nothing.
    """

    _head_bytes = 0
    _in_head = True
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a connection."""
        connection = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        super().connection_made(connection)
        self.transport = JoinedWrites(connection)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > LARGEST_HEAD and not self.transport.is_closing():
            self.send_400_response("the head of the request is too large")

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End the head of a request."""
        self._in_head = False
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._end_stalled)

    def resume_writing(self) -> None:
        """Go on: it has read."""
        self._forget_stalled()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is done for the client."""
        self._forget_stalled()
        super().connection_lost(exc)

    def _forget_stalled(self) -> None:
        if self._stalled:
            self._stalled.cancel()
            self._stalled = None

    def _end_stalled(self) -> None:
        log.warning("an answer broke off: its client reads nothing")
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, and close the connection."""
        body = json.dumps(error_body(msg, 400)).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
