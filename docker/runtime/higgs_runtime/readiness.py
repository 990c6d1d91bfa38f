"""Outermost middleware of the server: warm-up before it is ready, GET /ping, and draining.

The server loads it by its own flag (`--middleware higgs_runtime.readiness.ReadinessMiddleware`), so
nothing of the server has to be changed. The entrypoint is told when the warm-up has ended, and says
when no more requests may be accepted.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from higgs_runtime.answers import answer, cors_policy
from higgs_runtime.control import (
    COMPANION,
    COMPANION_HEADER,
    CONTROL,
    DRAIN,
    DRAINED,
    READY,
    STOPPED,
)
from higgs_runtime.state import Phase, ServerState
from higgs_runtime.warmup import warm_up

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLLED = ("/ping", "/health", "/metrics")
"""Paths that platforms poll every few seconds: neither counted as running nor in the access log."""


class ReadinessMiddleware:
    """ASGI middleware around the server's application.

    Args:
        app: the application.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._running = 0
        self._state = ServerState(Phase.READY)
        self._cors = cors_policy(sys.argv[1:])
        self._companion = os.environ.pop(COMPANION, "").encode()
        self._control: socket.socket | None = None
        number = os.environ.pop(CONTROL, "")  # not for child processes
        if number:
            self._control = socket.socket(fileno=int(number))
            self._control.set_inheritable(False)
            self._control.setblocking(False)
        logging.getLogger("uvicorn.access").addFilter(_is_worth_logging)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request, by the path that the server's router uses."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._reporting(scope, send))
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "/ping" or (self._draining and not self._is_let_in(scope)):
            await self._answer(scope, send)
        elif scope["path"] in POLLED:
            await self._app(scope, receive, send)
        else:
            self._running += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._running -= 1
                self._report_drained()

    @property
    def _draining(self) -> bool:
        return self._state.phase is Phase.DRAINING

    def _is_let_in(self, scope: Scope) -> bool:
        """Return whether a request is answered while draining: for the last ones of /generate."""
        if scope["path"] == "/metrics":
            return True
        name = COMPANION_HEADER.encode()
        token = next((v for k, v in scope["headers"] if k == name), b"")
        return bool(self._companion) and hmac.compare_digest(token, self._companion)

    async def _answer(self, scope: Scope, send: Send) -> None:
        request = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        method = scope["method"]
        status, headers, body = answer(self._state, method, scope["path"], request, self._cors)
        if status == 200 and method != "OPTIONS" and (unhealthy := await self._unhealthy(scope)):
            status, body = 503, unhealthy
        headers["Content-Length"] = str(len(body))
        if status == 503:
            headers["Connection"] = "close"
        encoded = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        body = b"" if method == "HEAD" else body
        await send({"type": "http.response.body", "body": body})

    async def _unhealthy(self, scope: Scope) -> bytes:
        """Return the body of the server's /health if that is an error; else nothing."""
        status = 500
        chunks: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            chunks.append(message.get("body", b""))

        asked = {**scope, "method": "GET", "path": "/health", "raw_path": b"/health"}
        await self._app(asked, receive, send)
        return b"" if status < 400 else b"".join(chunks) or b"{}"

    def _reporting(self, scope: Scope, send: Send) -> Send:
        """Return a `send` that tells the entrypoint of the start, after a warm-up, and the end."""

        async def wrapped(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await warm_up(self._app, scope.get("app"))
                if self._control:
                    asyncio.get_running_loop().add_reader(self._control, self._receive_control)
                    self._control.send(READY)
            await send(message)
            if message["type"] == "lifespan.shutdown.complete" and self._control:
                self._control.send(STOPPED)

        return wrapped

    def _receive_control(self) -> None:
        """Stop accepting requests when the entrypoint says so."""
        assert self._control is not None  # noqa: S101 (registered only with a socket)
        try:
            received = self._control.recv(64)
        except BlockingIOError:
            return
        if not received:
            asyncio.get_running_loop().remove_reader(self._control)
        elif DRAIN in received:
            self._state.phase = Phase.DRAINING
            self._report_drained()

    def _report_drained(self) -> None:
        if self._draining and self._running == 0 and self._control:
            self._control.send(DRAINED)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Filter the access log: no polled paths, and no queries, which may hold texts or keys."""
    arguments = record.args
    if not isinstance(arguments, tuple) or len(arguments) < 5:
        return True
    path, query, _ = str(arguments[2]).partition("?")
    if query:
        record.args = (*arguments[:2], f"{path}?...", *arguments[3:])
    return path not in POLLED or arguments[4] not in (200, 204)
