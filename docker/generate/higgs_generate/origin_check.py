"""ASGI middleware: pages of other origins cannot use the service, unless its owner allows them.

Without it any page that a person opens could make the service on that person's machine work: a
browser sends such requests, it only hides the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from higgs_patches.lib.errors import error_response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EXPOSED = (
    "Retry-After, X-Request-ID, X-Job-ID, X-Mode, X-Chunks, X-Sample-Rate, X-Generation-Time, "
    "X-Audio-Duration, X-RTF, X-Concurrent-Requests"
)

_BROWSERS = {b"origin", b"sec-fetch-site"}
"""Headers by which a browser says where a request comes from; nobody else sends them."""


class OriginCheck:
    """Refuses requests of other origins, and adds CORS headers for allowed ones.

    Args:
        app: the next application.
        allowed: origins that may use it; "*" allows all.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        names = {name for name, _ in scope["headers"]}
        if not names & _BROWSERS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site") == "cross-site" and scope["method"] != "GET":
                await self._refuse(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        elif "*" in self._allowed or origin.rstrip("/") in self._allowed:
            await self._shared(origin, headers, scope, receive, send)
        elif urlsplit(origin).netloc.lower() == headers.get("host", "").lower():
            await self._app(scope, receive, send)
        else:
            await self._refuse(scope, receive, send)

    @staticmethod
    async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
        message = (
            "pages of another origin may not use this service; its owner can allow them by "
            "HIGGS_GENERATE_ALLOWED_ORIGINS"
        )
        await error_response(message, 403)(scope, receive, send)

    async def _shared(
        self, origin: str, headers: Headers, scope: Scope, receive: Receive, send: Send
    ) -> None:
        shared = [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"vary", b"Origin"),
        ]
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            shared += [
                (b"access-control-allow-methods", b"GET, POST, DELETE"),
                (b"access-control-allow-headers", b"Authorization, Content-Type, Accept"),
                (b"access-control-max-age", b"600"),
            ]
            await send({"type": "http.response.start", "status": 204, "headers": shared})
            await send({"type": "http.response.body", "body": b""})
            return
        shared.append((b"access-control-expose-headers", EXPOSED.encode()))

        async def send_shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *shared]}
            await send(message)

        await self._app(scope, receive, send_shared)
