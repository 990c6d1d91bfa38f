"""Check the Host header and the API key on the path that the router uses.

With an API key every route needs it, except the probes `OPEN_PATHS`. The fork decides on
`request.url.path`, which Starlette builds from the Host header: with `Host: x?` every path is "/",
and the request is answered without a key (CVE-2026-48710).
"""

from __future__ import annotations

import copy
import functools
import hmac
import os
import re
from collections.abc import Callable
from typing import Any

from starlette._utils import get_route_path
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from higgs_patches.lib.errors import error_response

PATCH = {
    "title": "Check the API key on the path that the router uses, and on every route",
    "issues": [],
    "why": (
        "The key is compared only if request.url.path begins with /v1, and that path is made from "
        "the client's Host header: 'Host: x?' needs no key. Metrics and documentation never do. "
        "The comparison takes longer the more of the key is right."
    ),
    "obsolete_when": "authentication in build_app uses scope['path'] and hmac.compare_digest.",
    "targets": [
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "build_app",
            "how": "wrap",
            "with": "with_api_key",
            "sha256": "29634a709cdde23821df744d4a4e0eb4131f77883768c81a8091dfc80555dcec",
        },
    ],
}

OPEN_PATHS = frozenset({"/", "/health", "/ping"})
"""Paths that need no key: they only say whether the server is alive."""

_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])?(?::[0-9]{1,5})?")
_VARIABLE = "VLLM_API_KEY"


def with_api_key(original: Callable[..., Any]) -> Callable[..., Any]:
    """Replace the fork's check; only CORS runs before ours."""

    @functools.wraps(original)
    def build_app(args: Any) -> Any:
        variable = os.environ.pop(_VARIABLE, None)
        without_key = copy.copy(args)
        without_key.api_key = None
        try:
            app = original(without_key)
        finally:
            if variable is not None:
                os.environ[_VARIABLE] = variable
        cors = [entry for entry in app.user_middleware if entry.cls is CORSMiddleware]
        others = [entry for entry in app.user_middleware if entry.cls is not CORSMiddleware]
        check = Middleware(RequireApiKey, key=args.api_key or variable)
        app.user_middleware[:] = [*cors, check, *others]
        return app

    return build_app


class RequireApiKey:
    """ASGI middleware that refuses a Host that is not a host, and a request without the key.

    Args:
        app: what is protected.
        key: the API key; None or empty for an open server.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self.app = app
        self._expected = key.encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it (ASGI)."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = scope["headers"]
        if not all(_HOST.fullmatch(value) for name, value in headers if name == b"host"):
            await error_response("the Host header is not a host", 400)(scope, receive, send)
            return
        if get_route_path(scope) in OPEN_PATHS or self._is_authorized(headers):
            await self.app(scope, receive, send)
            return
        message = "the API key is missing or wrong; expected 'Authorization: Bearer KEY'"
        response = error_response(message, 401)
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _is_authorized(self, headers: list[tuple[bytes, bytes]]) -> bool:
        if self._expected is None:
            return True
        given = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")  # the scheme may be in any case (RFC 9110)
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._expected)
