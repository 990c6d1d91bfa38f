"""Answers that say what went wrong; and answers that break off are seen to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from higgs_patches.lib.errors import ErrorResponse, error_response
from higgs_patches.patches import error_format
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import StreamingResponse


class Body(BaseModel):
    speed: float = Field(1.0, le=4.0, allow_inf_nan=False)
    names: dict[str, int] = {}


def app(middleware: bool = False) -> FastAPI:
    """An application with routes that fail in each way; `middleware` as --api-key brings it."""

    def build_app(args: Any) -> FastAPI:
        made = FastAPI()

        @made.post("/body")
        async def body(body: Body) -> str:
            return "good"

        @made.get("/refused")
        async def refused() -> str:
            raise HTTPException(418, "no coffee", headers={"x-pot": "tea"})

        @made.get("/failed")
        async def failed() -> str:
            raise LookupError("secret")

        @made.get("/broken")
        async def broken(request: Request) -> StreamingResponse:
            async def pieces() -> AsyncIterator[bytes]:
                yield b"some"
                error_format.cut(request.scope)
                raise LookupError("gone")

            return StreamingResponse(pieces())

        @made.get("/whole")
        async def whole() -> StreamingResponse:
            async def pieces() -> AsyncIterator[bytes]:
                yield b"all"

            return StreamingResponse(pieces())

        if middleware:

            @made.middleware("http")
            async def passing(request: Request, call_next: Any) -> Any:
                return await call_next(request)

        return made

    built: FastAPI = error_format.with_errors(build_app)(SimpleNamespace())
    return built


def ask(
    application: FastAPI, method: str, path: str, body: bytes = b""
) -> tuple[list[Any], BaseException | None]:
    """The ASGI messages of an answer, and what the server is left with."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"content-type", b"application/json")],
        "server": ("test", 80),
        "client": ("test", 1),
    }
    sent: list[Any] = []

    async def run() -> None:
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            if message := next(given, None):
                return message
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await application(scope, receive, send)

    try:
        asyncio.run(asyncio.wait_for(run(), 20))
    except Exception as error:
        return sent, error
    return sent, None


def error_of(sent: list[Any]) -> tuple[int, dict[str, Any]]:
    status = sent[0]["status"]
    answer = json.loads(b"".join(m.get("body", b"") for m in sent[1:]))
    assert answer["error"] == {k: answer[k] for k in ("message", "type", "param", "code")}
    assert answer["object"] == "error"
    assert answer["code"] == status
    return status, answer["error"]


def test_a_wrong_field_is_named_with_what_it_may_be() -> None:
    sent, _ = ask(app(), "POST", "/body", b'{"speed": 5}')
    status, error = error_of(sent)
    assert status == 400
    assert error["message"] == "speed: it should be less than or equal to 4"
    assert (error["param"], error["type"]) == ("speed", "BadRequestError")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not JSON: Expecting property name"),
        (b"", "Field required"),
        (b"\x1f\x8b\x08", "the body is not JSON: it is not UTF-8 (a compressed body"),
        (b"[" * 100_000, "the body is not JSON: it is nested too deeply"),
        (b"[]", "it should be a valid dictionary"),
        (b'{"speed": NaN}', "speed: it should be a finite number"),
        (b'{"speed": "a", "names": 3}', "speed: it should be a valid number"),
        (b'{"names": {"\\ud800": "x"}}', ": it should be a valid integer"),
        (
            b'{"speed": ' + b"1" * 5000 + b"}",
            "not JSON: a number in it has too many digits",
        ),
    ],
)
def test_bodies_that_cannot_be_read(body: bytes, message: str) -> None:
    status, error = error_of(ask(app(), "POST", "/body", body)[0])
    assert status == 400
    assert message in error["message"]


def test_many_errors_are_not_all_told() -> None:
    names = json.dumps({"names": {f"n{i}": "x" for i in range(1000)}})
    _, error = error_of(ask(app(), "POST", "/body", names.encode())[0])
    assert error["param"] == "names.n0"
    assert len(error["message"]) < 1000


def test_other_errors_have_the_form_too() -> None:
    sent, _ = ask(app(), "GET", "/refused")
    assert (b"x-pot", b"tea") in sent[0]["headers"]
    assert error_of(sent)[0] == 418
    assert error_of(sent)[1]["message"] == "no coffee"
    status, error = error_of(ask(app(), "GET", "/nowhere")[0])
    assert (status, error["message"]) == (
        404,
        "GET '/nowhere' is not possible; expected a route of GET /openapi.json, such as "
        "/v1/audio/speech",
    )
    assert error_of(ask(app(), "GET", "/body")[0])[1]["type"] == "MethodNotAllowedError"


@pytest.mark.parametrize("middleware", [False, True])
def test_a_failure_is_a_500_that_tells_nothing_secret(middleware: bool) -> None:
    sent, left = ask(app(middleware), "GET", "/failed")
    status, error = error_of(sent)
    assert (status, error["type"]) == (500, "InternalServerError")
    assert "secret" not in error["message"]
    assert isinstance(left, LookupError)  # for the log


@pytest.mark.parametrize("middleware", [False, True])
def test_a_broken_answer_does_not_end_as_if_it_were_whole(middleware: bool) -> None:
    """The server closes the connection of an application that fails without the end of a body."""
    sent, left = ask(app(middleware), "GET", "/broken")
    assert sent[0]["status"] == 200
    assert [m["body"] for m in sent[1:]] == [b"some"]
    assert all(m["more_body"] for m in sent[1:])
    assert left is not None


@pytest.mark.parametrize("middleware", [False, True])
def test_a_whole_answer_is_left_alone(middleware: bool) -> None:
    sent, left = ask(app(middleware), "GET", "/whole")
    assert b"".join(m["body"] for m in sent[1:]) == b"all"
    assert not sent[-1].get("more_body")
    assert left is None


def test_a_message_with_what_no_answer_can_hold() -> None:
    answer = error_response("no model '\ud800'", 404, "mod\udfffel")
    assert json.loads(bytes(answer.body))["error"]["message"] == "no model '?'"
    assert json.loads(bytes(answer.body))["param"] == "mod?el"


def test_error_body_is_what_vllm_makes_of_it() -> None:
    made = ErrorResponse(message="m", type="NotFoundError", code=404)
    assert (made.code, made.message) == (404, "m")
    assert made.model_dump()["error"]["type"] == "NotFoundError"


def test_no_message_shows_a_place_in_memory() -> None:
    """Libraries put the text of an object into their errors, such as that of a file in memory."""
    text = "cannot open <_io.BytesIO object at 0x7f3a5c1b2d40>: unknown format"
    body = json.loads(bytes(error_response(text, 400).body))
    assert body["error"]["message"] == "cannot open <_io.BytesIO object>: unknown format"
