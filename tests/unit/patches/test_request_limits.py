"""Request size limits: how much a request may bring."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from higgs_patches.lib.http_protocol import ServerProtocol
from higgs_patches.patches import request_limits
from higgs_patches.patches.request_limits import (
    WholeBody,
    with_limited_bodies,
    with_limited_headers,
)


def ask(
    *pieces: bytes,
    length: int | None = None,
    gone: bool = False,
    path: str = "/",
    query: bytes = b"",
) -> tuple[list[Any], Any]:
    """What WholeBody answers to a request in these pieces, and what the application gets."""
    got: list[bytes] = []
    sent: list[Any] = []
    waiting: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": gone or place < len(pieces) - 1}
        for place, piece in enumerate(pieces)
    ]
    waiting.append({"type": "http.disconnect"})

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Callable[[], Any], send: Any) -> None:
        message = await receive()
        assert message["more_body"] is False
        got.append(message["body"])
        assert (await receive())["type"] == "http.disconnect"

    headers = [] if length is None else [(b"Content-Length", str(length).encode())]
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": query, "headers": headers,
    }  # fmt: skip
    asyncio.run(WholeBody(app)(scope, receive, send))
    return sent, got


def test_a_body_is_passed_on_as_a_whole() -> None:
    assert ask(b"abc", b"", b"def") == ([], [b"abcdef"])
    assert ask(b"") == ([], [b""])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "MAX_BODY", 10)
    monkeypatch.setattr(request_limits, "MAX_DISCARDED", 20)


CLOSE = (b"connection", b"close")


@pytest.mark.usefixtures("small")
def test_a_body_at_the_limit_is_passed_on() -> None:
    assert ask(b"12345", b"67890", length=10)[1] == [b"1234567890"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("length", [None, 12])
def test_a_body_beyond_the_limit_is_read_and_answered_with_413(length: int | None) -> None:
    sent, got = ask(b"123456", b"789012", length=length)
    assert got == []
    assert sent[0]["status"] == 413
    assert CLOSE not in sent[0]["headers"]
    assert "larger than" in json.loads(sent[1]["body"])["error"]["message"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("length", [None, 22, 10**30])
def test_an_endless_body_is_not_read_to_its_end(length: int | None) -> None:
    sent, got = ask(*[b"1"] * 22, length=length, gone=True)
    assert got == []
    assert sent[0]["status"] == 413
    assert CLOSE in sent[0]["headers"]


@pytest.mark.usefixtures("small")
def test_a_body_that_is_announced_as_endless_is_not_read_at_all() -> None:
    assert ask(length=21)[0][0]["status"] == 413


def test_what_is_thrown_away_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "MAX_BODY", 2**20)
    piece = b"x" * 2**20
    tracemalloc.start()
    try:
        assert ask(*[piece] * 64)[0][0]["status"] == 413
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_json_of_many_elements_is_413(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "MAX_ELEMENTS", 10)
    assert ask(b"[1,1,1,1,1,1,1,1,1,1,1]")[0][0]["status"] == 413
    assert ask(b"[{},{},{}]") == ([], [b"[{},{},{}]"])


@pytest.mark.parametrize("query", [b"x=%ff", b"%C3%A9", b"name[]=\xff"])
def test_a_query_that_the_metrics_would_fail_on_is_refused(query: bytes) -> None:
    sent, passed = ask(b"", path="/metrics/", query=query)
    assert sent[0]["status"] == 400
    assert not passed
    assert ask(b"", path="/metrics", query=b"name[]=a%20b")[1]
    assert ask(b"", path="/v1/audio/voices", query=query)[1]


def test_who_leaves_before_the_end_reaches_nothing() -> None:
    assert ask(b"abc", gone=True) == ([], [])


def test_the_limit_stands_behind_every_other_middleware() -> None:
    from fastapi import FastAPI
    from starlette.middleware.cors import CORSMiddleware

    def build_app(args: Any) -> Any:
        app = FastAPI()
        app.add_middleware(CORSMiddleware)
        return app

    app = with_limited_bodies(build_app)(None)
    assert [entry.cls for entry in app.user_middleware] == [CORSMiddleware, WholeBody]


def test_the_parser_with_limits_is_used() -> None:
    async def serve_http(app: Any, **kwargs: Any) -> Any:
        return kwargs

    served = with_limited_headers(serve_http)
    found = asyncio.run(served("app", host="x", timeout_keep_alive=5))
    assert found == {"host": "x", "http": ServerProtocol, "timeout_keep_alive": 90}


def test_idle_connection_is_closed_after_the_set_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server closes idle connections after 5 s by itself, earlier than common proxies do."""
    monkeypatch.setenv("HIGGS_KEEP_ALIVE_SECONDS", "1")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def run() -> float:
        listener = socket.create_server(("127.0.0.1", 0))

        async def serve_http(app: Any, **kwargs: Any) -> None:
            server = uvicorn.Server(
                uvicorn.Config(app, lifespan="off", log_level="error", **kwargs)
            )
            await server.serve(sockets=[listener])

        served = asyncio.ensure_future(with_limited_headers(serve_http)(app, timeout_keep_alive=5))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 204")
        started = time.monotonic()
        await reader.read()  # until the server closes the connection
        seconds = time.monotonic() - started
        writer.close()
        served.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await served
        return seconds

    assert 0.9 <= asyncio.run(run()) < 3
