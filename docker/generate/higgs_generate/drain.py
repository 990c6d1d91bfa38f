"""ASGI middleware: at the end running requests finish, and new ones are refused."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from higgs_generate import failures
from higgs_generate.failures import RetryLaterError
from higgs_generate.service import Service

POLLED = ("/ping", "/health", "/metrics")
"""Paths that platforms poll: they are answered until the end, and not waited for."""


class DrainRequests:
    """Counts running requests.

    Args:
        app: the next application.
        service: tells whether it is to stop.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._running = 0
        self._idle = asyncio.Event()

    async def drain(self) -> None:
        """Refuse new requests, and wait for the running ones."""
        self._service.draining = True
        while self._running:
            self._idle.clear()
            await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it (ASGI)."""
        if scope["type"] != "http" or scope["path"] in POLLED:
            await self._app(scope, receive, send)
            return
        if self._service.draining:
            error = RetryLaterError("the service is shutting down", HTTPStatus.SERVICE_UNAVAILABLE)
            response = failures.answer(error)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1
            self._idle.set()
