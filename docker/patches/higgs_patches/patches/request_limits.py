"""Request size limits, applied before any handler.

A body that is too large is answered with 413 before it fills the memory, and a query that would be
an internal error in /metrics with 400.

The HTTP parser is h11, which refuses a request's head of more than 64 KiB: httptools, uvicorn's
first choice, keeps headers without a limit (one connection that sent 100 MB of them made the server
700 MB larger).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from higgs_patches.lib.errors import error_response
from higgs_patches.lib.http_protocol import ServerProtocol

PATCH = {
    "title": "Limit the size of a request",
    "issues": [],
    "why": "Bodies and headers of any size, from any client, are kept in memory.",
    "obsolete_when": "The server answers a body of 100 MB with 413, and cuts endless headers.",
    "targets": [
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "build_app",
            "how": "wrap",
            "with": "with_limited_bodies",
            "sha256": "29634a709cdde23821df744d4a4e0eb4131f77883768c81a8091dfc80555dcec",
        },
        {
            "file": "vllm/entrypoints/launcher.py",
            "name": "serve_http",
            "how": "wrap",
            "with": "with_limited_headers",
            "sha256": "666e5e09500e889b2d59e6d6641d33f1d41984850733c655e838f5e34d5bb166",
        },
    ],
}

MAX_BODY = 32 * 2**20
"""Bytes of a request's body: reference audio of the largest size (media.py), in base64."""

MAX_DISCARDED = 8 * MAX_BODY
"""Bytes of a body that are read and discarded: many clients read no answer before they have sent
everything. The connection of a longer body is closed."""

MAX_ELEMENTS = 500_000
"""Commas and opening brackets of a request's JSON: each can become an object in memory."""


def with_limited_bodies(original: Callable[..., Any]) -> Callable[..., Any]:
    """Add the limit of bodies to the application."""

    @functools.wraps(original)
    def build_app(args: Any) -> Any:
        app = original(args)
        # The last one is the innermost: the API key is checked before a body is read.
        app.user_middleware.append(Middleware(WholeBody))
        return app

    return build_app


class WholeBody:
    """ASGI middleware that reads a request's whole body, within MAX_BODY, before it goes on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, and pass the request on with it (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _is_beyond_metrics(scope):
            await error_response("the query may hold ASCII only", 400)(scope, receive, send)
            return
        body = bytearray()
        size = 0
        more = _announced(scope) <= MAX_DISCARDED
        while more and size <= MAX_DISCARDED:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= MAX_BODY:
                body += chunk
            more = message.get("more_body", False)
        if max(size, _announced(scope)) > MAX_BODY:
            response = error_response(f"the request is larger than {MAX_BODY >> 20} MiB", 413)
            if more or not size:
                # Unread bytes are still to come: they must not be replayed for the next request.
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        long = len(body) > MAX_ELEMENTS
        if long and sum(map(body.count, (b",", b"[", b"{"))) > MAX_ELEMENTS:
            response = error_response(f"the request has more than {MAX_ELEMENTS} elements", 413)
            await response(scope, receive, send)
            return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, replay, send)


def _is_beyond_metrics(scope: Scope) -> bool:
    """Return whether the metrics' own application would fail on this query: it expects ASCII."""
    if not scope["path"].startswith("/metrics"):
        return False
    return not unquote_to_bytes(scope["query_string"]).isascii()


def _announced(scope: Scope) -> int:
    """Return the length of the body that a request's head announces; 0 if it does not."""
    lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    return max((int(value[:18]) for value in lengths if value.isdigit()), default=0)


def with_limited_headers(original: Callable[..., Any]) -> Callable[..., Any]:
    """Serve HTTP with the parser that limits a request's head."""

    @functools.wraps(original)
    async def serve_http(*args: Any, **kwargs: Any) -> Any:
        keep_alive = int(os.environ.get("HIGGS_KEEP_ALIVE_SECONDS") or 90)
        changed = {"timeout_keep_alive": keep_alive}  # after the caller's, which is 5 s
        return await original(*args, **{"http": ServerProtocol, **kwargs, **changed})

    return serve_http
