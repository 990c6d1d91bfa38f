"""Error answers in the form of OpenAI's API, on every route; see `lib.errors` for the form.

Once an answer has begun it can no longer become an error. `cut` marks it then, and its connection
is closed without the end of the body, so that the client notices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
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
    ],
}

_CUT = "higgs.cut"


ErrorResponse = errors.ErrorResponse
"""The body of an error, in the place of the fork's class."""


def cut(scope: Scope) -> None:
    """Mark the answer to this request as broken off: its body must not be ended properly."""
    if _CUT in scope:
        scope[_CUT].append(True)


class CutConnections:
    """ASGI middleware: an answer that is marked by `cut` ends with its connection.

    A server cuts the connection by itself when an application fails in the middle of an answer, but
    starlette's `@app.middleware("http")`, if one is in between, has ended the body by then.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but the end of a broken answer."""
        marks: list[bool] = []
        scope[_CUT] = marks

        async def send_unless_cut(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body")
            if marks and last:
                raise ConnectionAbortedError("the answer broke off")
            await send(message)

        await self.app(scope, receive, send_unless_cut)


def with_errors(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give the application its handlers of errors."""

    @functools.wraps(original)
    def build_app(args: Any) -> Any:
        app = original(args)
        app.add_exception_handler(RequestValidationError, _invalid)
        app.add_exception_handler(HTTPException, _http)
        app.add_exception_handler(Exception, _failed)
        app.add_middleware(CutConnections)
        return app

    return build_app


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (what it is registered for)
    message, param = errors.describe_errors(error.errors())
    return errors.error_response(message, HTTPStatus.BAD_REQUEST, param)


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    response = errors.error_response(str(error.detail), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _failed(_: Request, error: Exception) -> JSONResponse:
    return errors.error_response(
        f"the server failed ({type(error).__name__}); its log says why",
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
