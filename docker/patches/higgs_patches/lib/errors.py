"""Errors for clients: one exception for a refused request, one form for every error's answer.

    {"error": {"message": "...", "type": "BadRequestError", "param": "speed", "code": 400}}

Beside `error` stand the same fields at the top, where the clients of this server's fork find them.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, computed_field
from starlette.responses import JSONResponse

RETRY_SECONDS = "5"
"""Value of Retry-After, as the entrypoint's answers have it."""

_LISTED = 5
"""Faults of a request that one answer lists."""

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
"""A place in memory, as Python shows it in the text of an object."""

_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


class ErrorResponse(BaseModel):
    """Body of an error's answer.

    Attributes:
        message: what is wrong, for a person.
        type: the kind of error.
        param: the field that is to blame, if one is.
        code: the HTTP status.
    """

    object: str = "error"
    message: str
    type: str
    param: str | None = None
    code: int

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def error(self) -> dict[str, Any]:
        """The same in the object that OpenAI's clients look for."""
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }


class RefusedError(ValueError):
    """A request that cannot be served as it is; the text is for the client.

    Attributes:
        param: the field that is to blame, in OpenAI's notation ("messages[0].role").
        status: the HTTP status of the answer.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.status = status


def error_body(message: str, status: int, param: str | None = None) -> dict[str, Any]:
    """Return the JSON of an error with this HTTP status."""
    name = "".join(word.capitalize() for word in HTTPStatus(status).phrase.split())
    kind = name if name.endswith("Error") else f"{name}Error"
    body = ErrorResponse(
        message=_encodable(message), type=kind, param=param and _encodable(param), code=status
    )
    return body.model_dump()


def error_response(message: str, status: int, param: str | None = None) -> JSONResponse:
    """Return the answer for an error with this HTTP status."""
    later = {"Retry-After": RETRY_SECONDS} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(error_body(message, status, param), status_code=status, headers=later)


def shown(value: object) -> str:
    """Return a short form of any value, for a message."""
    return _REPR.repr(value)


def _encodable(text: str) -> str:
    """Return the text without lone surrogates, which UTF-8 cannot encode, and without addresses."""
    return _ADDRESS.sub("", text.encode("utf-8", "replace").decode("utf-8"))


def describe_errors(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """Return one line on what is wrong with a request, and the first field that is to blame.

    Args:
        errors: what pydantic found, in the form of `ValidationError.errors()`. A validator's
            RefusedError gives its own text; its `param` is relative to where it was raised.
    """
    described = [_describe(error) for error in errors[:_LISTED]]
    return "; ".join(dict.fromkeys(line for line, _ in described)), described[0][1]


def _describe(error: Mapping[str, Any]) -> tuple[str, str | None]:
    place = _field(error["loc"])
    cause = (error.get("ctx") or {}).get("error")
    if isinstance(cause, RefusedError):
        param = ".".join(filter(None, (place, cause.param))) or None
        return f"{param or 'the request'} {cause}", param
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {cause}", None
    # The client's value is never repeated as it is: pydantic's text names the expected one.
    text = error["msg"].removeprefix("Value error, ").replace("Input should", "it should", 1)
    return (f"{place}: {text}" if place else text), place or None


def _field(loc: Sequence[str | int]) -> str:
    """Return a place in OpenAI's notation; tags of unions, in brackets, are not part of it."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "body" and not part.startswith("("):
            text += f".{part}" if text else part
    return text
