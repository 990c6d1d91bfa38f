"""ASGI endpoint of a route: errors become answers, and what happens is counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from higgs_patches.lib.audio.containers import EncodingError
from higgs_patches.lib.errors import RefusedError, error_response
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from higgs_generate import failures
from higgs_generate.request_id import request_id_of
from higgs_generate.service import Service
from higgs_generate.sound_answer import SampleCounter

log = logging.getLogger("higgs_generate")


@dataclass
class Call:
    """A request to a route.

    Attributes:
        request: the HTTP request.
        service: the parts of the service.
        id: for X-Request-ID and the log of the server.
        began: when it came, by time.perf_counter.
        counter: counts the sound that is sent.
    """

    request: Request
    service: Service
    id: str
    began: float
    counter: SampleCounter

    async def body(self) -> bytes:
        """Return the body, which is there in one piece (WholeBody)."""
        message = await self.request.receive()
        return bytes(message["body"])


Handler = Callable[[Call], Awaitable[ASGIApp]]


class Endpoint:
    """Answers a route with what its handler returns.

    Args:
        service: the parts of the service.
        handler: answers, or raises RefusedError.
        speaks: whether it is counted as a request to speak.
    """

    def __init__(self, service: Service, handler: Handler, *, speaks: bool = False) -> None:
        self._service = service
        self._handler = handler
        self._speaks = speaks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer (ASGI)."""
        call = Call(
            Request(scope, receive), self._service, "", time.perf_counter(), SampleCounter()
        )
        call.id = request_id_of(scope)
        statistics = self._service.statistics
        status, sounded, complete = 500, not self._speaks, False

        async def counted(message: Message) -> None:
            nonlocal status, sounded, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", call.id.encode())]
            await send(message)
            if message["type"] == "http.response.body":
                complete = not message.get("more_body")
                if not sounded and status < 400:
                    sounded = True
                    statistics.first_byte(call.began)

        if not self._speaks:
            await self._answer(call, scope, receive, counted)
            return
        statistics.concurrent += 1
        try:
            await self._answer(call, scope, receive, counted)
        finally:
            statistics.concurrent -= 1
            statistics.ended(well=complete and status < 400, samples=call.counter.samples)

    async def _answer(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._handler(call)
        except RefusedError as error:
            response = failures.answer(error)
        except EncodingError as error:
            log.warning("encoding failed: %s", error)
            response = error_response(str(error), 500, "response_format")
        except Exception:
            log.exception("request %s failed", call.id)
            response = error_response("the service failed on this request; its log says why", 500)
        await response(scope, receive, send)
