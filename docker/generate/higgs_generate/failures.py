"""Errors of the service and of the server behind it, as answers to the client."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from higgs_patches.lib.errors import RefusedError, error_response
from starlette.responses import JSONResponse

RETRY_SECONDS = 5


class RetryLaterError(RefusedError):
    """A request that may succeed later.

    Attributes:
        retry_after: seconds until then.
    """

    def __init__(self, message: str, status: HTTPStatus, retry_after: int = RETRY_SECONDS) -> None:
        super().__init__(message, None, status)
        self.retry_after = retry_after


class ServerFailedError(RefusedError):
    """The server behind failed: it cannot be reached, broke off, or answered with an error."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.BAD_GATEWAY) -> None:
        super().__init__(message, None, status)


def answer(error: RefusedError) -> JSONResponse:
    """Return the answer to a request that ended with an error."""
    response = error_response(str(error), error.status, error.param)
    if isinstance(error, RetryLaterError):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


_PARAMS = {
    "input": "text",
    "instructions": "scene",
    "ref_audio": "reference_audio_base64",
    "ref_text": "reference_text",
    "audio.voice": "voice",
    "max_completion_tokens": "max_tokens",
}
"""Names of the server's fields to those of POST /generate."""


def from_server(
    status: int, body: Any, retry_after: str | None, *, renamed: bool = True
) -> RefusedError:
    """Return the error for an answer of the server that is not 200.

    Args:
        status: its status.
        body: its JSON; anything else is ignored.
        retry_after: its header of that name.
        renamed: whether the client knows the fields by the names of POST /generate.
    """
    content = body if isinstance(body, dict) else {}
    inner = content.get("error")
    content = {**content, **inner} if isinstance(inner, dict) else content
    message = str(content.get("message") or "")[:1000]
    if status in (429, 503):
        seconds = int(retry_after) if retry_after and retry_after.isdecimal() else RETRY_SECONDS
        text = message or "the server behind is busy"
        return RetryLaterError(text, HTTPStatus(status), min(max(seconds, 1), 3600))
    if status == 401:
        return ServerFailedError("the server behind refused this service's API key")
    if status in (400, 404, 413, 422):
        param = content.get("param")
        param = str(param) if param else None
        if renamed:
            param = _renamed(param)
        code = HTTPStatus.BAD_REQUEST if status == 422 else HTTPStatus(status)
        return RefusedError(message or f"the server behind answered {status}", param, code)
    text = f"the server behind failed ({status})"
    if status == 504:
        return ServerFailedError(message or text, HTTPStatus.GATEWAY_TIMEOUT)
    return ServerFailedError(f"{text}: {message}" if message else text)


def _renamed(param: str | None) -> str | None:
    if param and param.startswith("messages"):
        return "reference_audio_base64" if "audio" in param else None
    return _PARAMS.get(param, param) if param else None
