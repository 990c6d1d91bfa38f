"""Error answers in the form of OpenAI's API, on every route; see `lib.errors` for the form.

CORS headers are on every answer, errors included: without them a browser only says "Failed to
fetch". Once an answer has begun it can no longer become an error. `cut` marks it then, and its
connection is closed without the end of the body, so that the client notices.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from higgs_patches.lib import errors

PATCH = {
    "title": "Answer every error in OpenAI's form, with the field and what it may be",
    "issues": [],
    "why": (
        "A refused field is answered with the printed form of a Python list, other errors with "
        "another object each, and a middleware (--api-key) ends the body of an answer that broke "
        "off as if it were whole."
    ),
    "obsolete_when": (
        "ErrorResponse holds an 'error' object, and the validation handler of build_app formats "
        "the errors instead of printing the exception."
    ),
    "targets": [
        {
            "file": "vllm/entrypoints/openai/protocol.py",
            "name": "ErrorResponse",
            "how": "replace",
            "with": "ErrorResponse",
            "sha256": "085391d7bcd9cd475af97f8e78cb99a80824d3947c22d4cc4329557fa7b52352",
        },
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "build_app",
            "how": "wrap",
            "with": "with_errors",
            "sha256": "29634a709cdde23821df744d4a4e0eb4131f77883768c81a8091dfc80555dcec",
        },
        {
            "file": "vllm/entrypoints/launcher.py",
            "name": "_add_shutdown_handlers",
            "how": "wrap",
            "with": "with_bodies",
            "sha256": "c54baa1896e10babd6971b7e76fbe1389c51f8df675562385d72c9584cd562f5",
        },
    ],
}

log = logging.getLogger("vllm.higgs_patches.errors")

_CUT = "higgs.cut"

EXPOSED_HEADERS = ("Retry-After", "WWW-Authenticate", "X-Finish-Reason", "X-Request-Id")
"""Headers that scripts of other origins may read."""


ErrorResponse = errors.ErrorResponse
"""The body of an error; it replaces the fork's class."""


def cut(scope: Scope) -> None:
    """Mark the answer to this request as broken off: its body must not be ended properly."""
    if _CUT in scope:
        scope[_CUT].append(True)


class FailedAnswers:
    """ASGI middleware for answers that fail: an error, or the end of the connection.

    An exception that nothing else handles becomes an error here, and not further out, where CORS
    headers would be missing. An answer that is marked by `cut` ends with its connection: a server
    does so by itself when an application fails within an answer, but starlette's
    `@app.middleware("http")`, if one is in between, has ended the body before.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but the end of a broken answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        marks: list[bool] = []
        scope[_CUT] = marks
        started = False

        async def send_unless_cut(message: Message) -> None:
            nonlocal started
            started = True
            last = message["type"] == "http.response.body" and not message.get("more_body")
            if marks and last:
                raise ConnectionAbortedError("the answer broke off")
            await send(message)

        try:
            await self.app(scope, receive, send_unless_cut)
        except Exception as error:
            if not started:
                await _failure(error)(scope, receive, send)
            raise  # the server logs it


def with_errors(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give the application its handlers of errors."""

    @functools.wraps(original)
    def build_app(args: Any) -> Any:
        app = original(args)
        app.add_exception_handler(RequestValidationError, _invalid)
        app.add_exception_handler(HTTPException, _http)
        app.add_middleware(FailedAnswers)
        for entry in [entry for entry in app.user_middleware if entry.cls is CORSMiddleware]:
            app.user_middleware.remove(entry)
            entry.kwargs["expose_headers"] = EXPOSED_HEADERS
            app.user_middleware.insert(0, entry)
        return app

    return build_app


def with_bodies(original: Callable[..., None]) -> Callable[..., None]:
    """Give a body to the answers of the handlers that end the server with its engine."""

    @functools.wraps(original)
    def _add_shutdown_handlers(app: Any, server: Any) -> None:
        before = dict(app.exception_handlers)
        original(app, server)
        for kind, handler in list(app.exception_handlers.items()):
            if before.get(kind) is not handler:
                app.add_exception_handler(kind, _with_body(handler))

    return _add_shutdown_handlers


def _with_body(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[JSONResponse]]:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        await handler(request, error)
        log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
        return _failure(error)

    return answer


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (what it is registered for)
    message, param = errors.describe_errors(error.errors())
    return errors.error_response(message, HTTPStatus.BAD_REQUEST, param)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 (as above)
    detail = str(error.detail)
    if detail == "There was an error parsing the body":  # FastAPI's
        detail = f"the body is not JSON: {_unreadable(error.__cause__)}"
    elif detail == HTTPStatus(error.status_code).phrase:  # a route that is missing, or its method
        asked = f"{request.method} {errors.shown(request.scope['path'])}"
        allowed = (error.headers or {}).get("Allow")
        detail = f"{asked} is not possible; expected " + (
            allowed or "a route of GET /openapi.json, such as /v1/audio/speech"
        )
    response = errors.error_response(detail, error.status_code)
    response.headers.update(error.headers or {})
    return response


def _unreadable(cause: BaseException | None) -> str:
    """Say why a body cannot be read, where that is not its syntax."""
    if isinstance(cause, UnicodeDecodeError):
        return "it is not UTF-8 (a compressed body is not supported)"
    if isinstance(cause, RecursionError):
        return "it is nested too deeply"
    return "a number in it has too many digits" if isinstance(cause, ValueError) else repr(cause)


def _failure(error: Exception) -> JSONResponse:
    return errors.error_response(
        f"the server failed ({type(error).__name__}); its log says why",
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
