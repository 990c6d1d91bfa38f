"""ASGI middleware: when a client hangs up, everything that is done for it ends at once."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class EndOnHangUp:
    """Cancels the task of a request when its client disconnects.

    It stands after the middleware that reads the whole body: from then on nothing but the
    disconnection can be received.

    Args:
        app: the next application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and cancel it (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body: Message | None = await receive()
        task = asyncio.current_task()
        gone = asyncio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            if task:
                task.cancel()

        async def receive_rest() -> Message:
            nonlocal body
            if body is not None:
                message, body = body, None
                return message
            await gone.wait()
            return {"type": "http.disconnect"}

        if body and body["type"] == "http.disconnect":
            return
        watcher = asyncio.create_task(watch())
        try:
            await self._app(scope, receive_rest, send)
        except asyncio.CancelledError:
            if not gone.is_set() or (task and task.uncancel()):
                raise
        finally:
            watcher.cancel()
