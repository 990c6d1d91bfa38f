"""ASGI middleware: all bodies that are being read or used take a bounded amount of memory."""

from __future__ import annotations

from http import HTTPStatus

from higgs_patches.patches.request_limits import MAX_BODY
from starlette.types import ASGIApp, Receive, Scope, Send

from higgs_generate import failures
from higgs_generate.failures import RetryLaterError

SMALL = 64 * 1024
"""Bodies up to this size are always read."""
BUDGET = 16 * MAX_BODY


class BodyBudget:
    """Refuses large bodies while others take the memory that there is for them.

    Args:
        app: the next application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it (ASGI)."""
        size = _size(scope) if scope["type"] == "http" else 0
        if size <= SMALL:
            await self._app(scope, receive, send)
            return
        size = min(size, MAX_BODY)
        if self._taken + size > BUDGET:
            error = RetryLaterError("too many large requests at once", HTTPStatus.TOO_MANY_REQUESTS)
            response = failures.answer(error)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        self._taken += size
        try:
            await self._app(scope, receive, send)
        finally:
            self._taken -= size


def _size(scope: Scope) -> int:
    """Return the length that a request announces; the largest one if it does not."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:18])
        if name == b"transfer-encoding":
            return MAX_BODY
    return 0
