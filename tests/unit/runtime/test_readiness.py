"""The middleware alone, called as a server calls it; test_start.py runs it in a real one."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import Any

import pytest
from higgs_runtime import readiness
from higgs_runtime.control import CONTROL, DRAIN, DRAINED, READY, WARMUP
from higgs_runtime.readiness import ReadinessMiddleware


async def call(app: Any, path: str, kind: str = "http") -> tuple[int, Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": kind, "path": path, "method": "GET", "headers": []}, receive, send)
    return sent[0]["status"], b"".join(x.get("body", b"") for x in sent)


class Application:
    """Answers /slow when `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.seen: list[str] = []
        self.health = 200

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            return
        self.seen.append(f"{scope['type']} {scope['path']}")
        if scope["path"] == "/slow":
            await self.go.wait()
        if scope["path"] == "/broken":
            raise ZeroDivisionError
        status = self.health if scope["path"] == "/health" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """The entrypoint's end of the socket."""
    ours, theirs = socket.socketpair()
    monkeypatch.setenv(CONTROL, str(theirs.detach()))
    monkeypatch.setenv(WARMUP, "0")
    ours.settimeout(10)
    return ours


async def opened(app: Any) -> ReadinessMiddleware:
    made = ReadinessMiddleware(app)

    async def send(message: Any) -> None:
        assert message["type"] == "lifespan.startup.complete"

    await made({"type": "lifespan", "app": app}, None, send)  # type: ignore[arg-type]
    return made


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0.001)


def test_drained_is_reported_after_the_last_request(control: socket.socket) -> None:
    async def run() -> None:
        app = Application()
        made = await opened(app)
        assert control.recv(100) == READY
        first, second = (asyncio.ensure_future(call(made, "/slow")) for _ in range(2))
        await turn()
        control.send(DRAIN)
        await turn()
        control.setblocking(False)
        with pytest.raises(BlockingIOError):
            control.recv(100)
        status, body = await call(made, "/v1/audio/speech")
        assert (
            status == 503 and json.loads(body)["error"]["message"] == "the server is shutting down"
        )
        assert (await call(made, "/ping"))[0] == 503
        assert (await call(made, "/health"))[0] == 503
        assert (await call(made, "/metrics"))[0] == 200
        first.cancel()  # a client that disconnects counts as finished
        app.go.set()
        assert (await second)[0] == 200
        await turn()
        assert control.recv(100) == DRAINED

    asyncio.run(run())


def test_drained_is_reported_at_once_when_idle(control: socket.socket) -> None:
    async def run() -> None:
        made = await opened(Application())
        with pytest.raises(ZeroDivisionError):
            await call(made, "/broken")
        control.send(DRAIN)
        await turn()
        assert control.recv(100) == READY + DRAINED

    asyncio.run(run())


def test_server_survives_the_entrypoint(control: socket.socket) -> None:
    async def run() -> None:
        made = await opened(Application())
        control.close()
        await turn()
        assert (await call(made, "/x"))[0] == 200

    asyncio.run(run())


def test_without_entrypoint() -> None:
    async def run() -> None:
        app = Application()
        made = await opened(app)
        assert await call(made, "/ping") == (200, b'{"status":"ready"}')
        assert await call(made, "/v1/models") == (200, b"ok")
        await call(made, "/socket", kind="websocket")
        assert app.seen == ["http /health", "http /v1/models", "websocket /socket"]

    asyncio.run(run())


def test_ping_is_503_while_health_is_not_200() -> None:
    async def run() -> None:
        app = Application()
        made = await opened(app)
        app.health = 503
        assert await call(made, "/ping") == (503, b"ok")
        app.health = 200
        assert (await call(made, "/ping"))[0] == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "status", "logged"),
    [("/ping", 200, False), ("/ping", 204, False), ("/health", 200, False), ("/ping", 503, True),
     ("/metrics?x=1", 200, False), ("/v1/audio/speech", 200, True), ("/pingpong", 200, True)],
)  # fmt: skip
def test_polled_paths_are_not_logged(path: str, status: int, logged: bool) -> None:
    arguments = ("127.0.0.1:1", "GET", path, "1.1", status)
    record = logging.LogRecord("uvicorn.access", 20, "", 1, '%s - "%s %s %s" %d', arguments, None)
    assert readiness._is_worth_logging(record) == logged
    other = logging.LogRecord("uvicorn.access", 20, "", 1, "something else", None, None)
    assert readiness._is_worth_logging(other)


@pytest.mark.parametrize("path", ["/v1/models?api_key=s3cret", "/v1/audio/speech?input=s3cret?x=?"])
def test_a_query_is_not_logged(path: str) -> None:
    """Some clients send their key, or their text, there."""
    arguments = ("127.0.0.1:1", "GET", path, "1.1", 401)
    record = logging.LogRecord("uvicorn.access", 20, "", 1, '%s - "%s %s %s" %d', arguments, None)
    assert readiness._is_worth_logging(record)
    assert record.getMessage() == f'127.0.0.1:1 - "GET {path.partition("?")[0]}?... 1.1" 401'
