"""The API key: which requests need it, and what does not get around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from higgs_patches.patches import api_key
from higgs_patches.patches.api_key import RequireApiKey
from higgs_patches.patches.error_format import with_errors

KEY = "a-secret-key"
OURS = {"authorization": f"Bearer {KEY}"}


def application(key: str | None = KEY, root_path: str = "") -> FastAPI:
    def build_app(args: Any) -> FastAPI:
        assert args.api_key is None
        assert "VLLM_API_KEY" not in os.environ
        app = FastAPI(root_path=root_path)
        for path in ("/", "/health", "/version", "/v1/models", "/broken"):
            app.add_api_route(path, broken if path == "/broken" else fine)
        app.add_middleware(CORSMiddleware, allow_origins=["*"])
        return app

    built: FastAPI = api_key.with_api_key(with_errors(build_app))(SimpleNamespace(api_key=key))
    return built


async def fine() -> str:
    return "fine"


async def broken() -> str:
    raise LookupError("broken")


def ask(
    app: Any, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and JSON of an answer."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "scheme": "http", "http_version": "1.1", "server": ("x", 80),
        "headers": [(k.encode(), v.encode()) for k, v in ({"host": "x"} | (headers or {})).items()],
    }  # fmt: skip
    with contextlib.suppress(LookupError):
        asyncio.run(app(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], found, json.loads(body) if body.startswith(b"{") else body


@pytest.mark.parametrize("path", ["/v1/models", "/version", "/docs", "/openapi.json", "/metrics"])
def test_routes_need_the_key(path: str) -> None:
    app = application()
    status, headers, body = ask(app, path, {"origin": "https://page.example"})
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert headers["access-control-allow-origin"] == "*", "a browser must be able to read it"
    assert body["error"]["code"] == 401 and body["error"]["message"]
    for same in (f"bearer {KEY}", f"BEARER  {KEY} "):
        assert ask(app, path, {"authorization": same})[0] != 401, "the scheme's case is no secret"
    for wrong in ("Bearer x", f"Bearer {KEY}x", KEY, "Basic " + KEY, "", "Bearer", f"Bearer{KEY}"):
        assert ask(app, path, {"authorization": wrong})[0] == 401
    assert ask(app, path, OURS)[0] != 401
    assert ask(application(None), path)[0] != 401


@pytest.mark.parametrize("path", ["/", "/health", "/ping"])
def test_probes_need_no_key(path: str) -> None:
    assert ask(application(), path)[0] in (200, 404)


@pytest.mark.parametrize(
    "host", ["x?", "x#", "x/y?", "x/health?", "x\\y", "user@x", "x y", "x:y", "[::1", "x:1:2", "é"]
)
@pytest.mark.parametrize("key", [KEY, None])
def test_a_host_that_is_not_a_host_is_refused(host: str, key: str | None) -> None:
    """Starlette builds request.url from it: 'x?' made every path one that needs no key."""
    status, _, body = ask(application(key), "/v1/models", {"host": host} | (OURS if key else {}))
    assert (status, body["error"]["code"]) == (400, 400)


@pytest.mark.parametrize(
    "host", ["x", "x:8000", "1.2.3.4:8000", "[::1]:8000", "", "a_b.c-d", "pod-8000.proxy.example"]
)
def test_hosts_are_accepted(host: str) -> None:
    assert ask(application(), "/v1/models", {"host": host} | OURS)[0] == 200
    assert ask(application(), "/v1/models", {"host": host})[0] == 401


def test_the_path_is_the_one_of_the_router() -> None:
    app = application(root_path="/api")
    assert ask(app, "/api/v1/models")[0] == ask(app, "/v1/models")[0] == 401
    assert ask(app, "/api/health")[0] == ask(app, "/health")[0] == 200
    for path in ("/health/", "//health", "/health/../v1/models", "/healthx", "/api/health/x"):
        assert ask(app, path)[0] == 401


def test_the_variable_sets_the_key_and_stays_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    assert ask(application(None), "/v1/models")[0] == 401
    assert os.environ["VLLM_API_KEY"] == KEY


def test_every_error_has_cors_headers() -> None:
    origin = {"origin": "https://page.example"}
    app = application()
    for path, status in (("/broken", 500), ("/nowhere", 404)):
        found, headers, body = ask(app, path, OURS | origin)
        assert (found, body["error"]["code"]) == (status, status)
        assert headers["access-control-allow-origin"] == "*"
        assert "X-Finish-Reason" in headers["access-control-expose-headers"]
    preflight = {"access-control-request-method": "GET", **origin}
    assert ask(app, "/v1/models", preflight, "OPTIONS")[0] == 200
    assert ask(app, "/v1/models", origin, "OPTIONS")[0] == 401


def test_a_websocket_is_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(*_: Any) -> None:
        raise AssertionError("reached")

    asyncio.run(RequireApiKey(app, None)({"type": "websocket"}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]
