"""Answers of the entrypoint's own layers: one form, CORS, and Retry-After, in every state."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from higgs_runtime import placeholder
from higgs_runtime.answers import REASONS, CorsPolicy, answer, cors_policy
from higgs_runtime.readiness import ReadinessMiddleware
from higgs_runtime.state import Phase, ServerState
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse

ORIGIN = "https://page.example"
SPECIFIC = ["--allowed-origins", f'["{ORIGIN}"]']
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


def expected_body(status: int, message: str) -> object:
    """The body that the server's own errors have."""
    from higgs_patches.lib.errors import error_body

    return error_body(message, status)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (Phase.LOADING, "the server is starting: starting"),
        (Phase.DRAINING, "the server is shutting down"),
        (Phase.ENDED, "the server is shutting down"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_errors_have_the_form_of_the_server(phase: Phase, message: str, method: str) -> None:
    found = answer(ServerState(phase), method, "/v1/audio/speech", {}, CorsPolicy())
    assert found.status == 503
    assert json.loads(found.body) == expected_body(503, message)
    assert found.headers["Retry-After"] == "5"
    assert found.headers["Content-Type"] == "application/json"


def test_other_paths_on_the_health_port_are_not_found() -> None:
    found = answer(ServerState(Phase.READY), "GET", "/v1/models", {}, CorsPolicy())
    message = "this port answers GET /ping only"
    assert (found.status, json.loads(found.body)) == (404, expected_body(404, message))


async def starlette_headers(arguments: list[str], request: dict[str, str]) -> dict[str, str]:
    """The CORS headers of the server's own middleware, with the same flags."""
    origins = json.loads(arguments[1]) if arguments else ["*"]
    app = CORSMiddleware(
        PlainTextResponse("hello"),
        allow_origins=origins,
        allow_credentials="--allow-credentials" in arguments,
        allow_methods=["*"],
        allow_headers=["*"],
    )
    method = "OPTIONS" if "access-control-request-method" in request else "GET"
    headers = [(k.encode(), v.encode()) for k, v in request.items()]
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/", "headers": headers}
    await app(scope, None, send)  # type: ignore[arg-type]
    return {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}


@pytest.mark.parametrize(
    "arguments",
    [[], SPECIFIC, ["--allowed-origins", '["https://other"]'],
     ["--allowed-origins", '["*"]', "--allow-credentials"], [*SPECIFIC, "--allow-credentials"]],
)  # fmt: skip
@pytest.mark.parametrize("request_headers", [{}, {"origin": ORIGIN}, PREFLIGHT])
def test_cors_headers_are_those_of_the_server(
    arguments: list[str], request_headers: dict[str, str]
) -> None:
    theirs = asyncio.run(starlette_headers(arguments, request_headers))
    method = "OPTIONS" if request_headers is PREFLIGHT else "GET"
    state = ServerState(Phase.LOADING)
    found = answer(state, method, "/v1/models", request_headers, cors_policy(arguments))
    ours = {name.lower(): value for name, value in found.headers.items()}
    for name in ("access-control-allow-origin", "access-control-allow-headers"):
        assert ours.get(name) == theirs.get(name)
    if "access-control-allow-origin" in theirs:
        assert ours["access-control-expose-headers"] == "Retry-After", "a page can read when"
        name = "access-control-allow-credentials"
        assert ours.get(name) == theirs.get(name)
    if request_headers is PREFLIGHT:
        assert found.status == 200, "the browser sends the request, and can read its answer"
        assert "POST" in ours["access-control-allow-methods"]


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [
        ([], CorsPolicy()),
        (SPECIFIC, CorsPolicy((ORIGIN,))),
        ([f'--allowed_origins=["{ORIGIN}"]', "--allow_credentials"], CorsPolicy((ORIGIN,), True)),
        (["--allowed-origins", "nonsense"], CorsPolicy(())),
        (["--allowed-origins"], CorsPolicy(())),
    ],
)
def test_cors_policy_follows_the_flags(arguments: list[str], policy: CorsPolicy) -> None:
    assert cors_policy(arguments) == policy


# --- the two layers


async def through_middleware(phase: Phase, path: str, headers: dict[str, str]) -> tuple[int, Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    made = ReadinessMiddleware(app)
    made._state.phase = phase
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(k.encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": encoded}
    await made(scope, None, send)  # type: ignore[arg-type]
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}


def test_draining_server_can_be_read_by_a_browser() -> None:
    run = through_middleware(Phase.DRAINING, "/v1/audio/speech", {"origin": ORIGIN})
    status, headers = asyncio.run(run)
    assert status == 503
    assert headers["access-control-allow-origin"] == "*"
    assert headers["retry-after"] == "5" and headers["connection"] == "close"


@pytest.mark.parametrize("host", ["x?", "x#", "x/ping?", "/ping", "", "a b"])
@pytest.mark.parametrize(
    ("path", "status"),
    [("/ping", 200), ("/v1/models", 299), ("//ping", 299), ("/v1/ping", 299), ("/ping/", 299)],
)
def test_path_is_not_taken_from_the_host_header(host: str, path: str, status: int) -> None:
    assert asyncio.run(through_middleware(Phase.READY, path, {"host": host}))[0] == status
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    state = ServerState(Phase.READY)
    line = placeholder.respond(head, state, CorsPolicy()).partition(b"\r\n")[0]
    assert line == (b"HTTP/1.1 200 OK" if path == "/ping" else b"HTTP/1.1 404 Not Found")


@pytest.mark.parametrize(
    ("target", "status"),
    [("/ping?a=/x", 200), ("http://h:1/ping?x", 200), ("http://ping", 404), ("/x?/ping", 404),
     ("//ping", 404), ("/ping/", 404), ("/ping#", 404), ("http://h/x", 404), ("*", 404)],
)  # fmt: skip
def test_request_targets(target: str, status: int) -> None:
    head = f"GET {target} HTTP/1.1\r\n\r\n".encode()
    line = placeholder.respond(head, ServerState(Phase.READY), CorsPolicy()).partition(b"\r\n")[0]
    assert line == f"HTTP/1.1 {status} {REASONS[status]}".encode()


def test_placeholder_sends_no_header_of_the_client_twice() -> None:
    """A bare line feed in an echoed header must not begin another header."""
    head = b"GET / HTTP/1.1\r\nOrigin: x\nSet-Cookie: a\r\n\r\n"
    found = placeholder.respond(head, ServerState(), CorsPolicy(credentials=True))
    assert b"Set-Cookie" not in found
    found = placeholder.respond(head.replace(b"\n", b"\r"), ServerState(), CorsPolicy(("x",)))
    assert b"Set-Cookie" not in found
