"""What goes over the wire, by the real HTTP server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from higgs_patches.lib.http_protocol import ServerProtocol, set_trailers


async def app(scope: Any, receive: Any, send: Any) -> None:
    length = [(b"content-length", b"4")] if scope["path"] == "/whole" else []
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": b"body", "more_body": True})
    if scope["path"] == "/cut":
        set_trailers(scope, {"X-Finish-Reason": "length"})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    config = uvicorn.Config(app, port=0, http=ServerProtocol, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def ask(port: int, *paths: str, version: str = "1.1") -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        for path in paths:
            last = path is paths[-1]
            connection.sendall(
                f"GET {path} HTTP/{version}\r\nHost: x\r\n"
                f"{'Connection: close' if last else 'X: y'}\r\n\r\n".encode()
            )
        data = b""
        while chunk := connection.recv(65_536):
            data += chunk
    return data


def test_a_trailer_follows_the_body(port: int) -> None:
    answer = ask(port, "/cut")
    assert answer.lower().endswith(b"4\r\nbody\r\n0\r\nx-finish-reason: length\r\n\r\n")


def test_answers_without_trailers_have_none(port: int) -> None:
    assert ask(port, "/").endswith(b"4\r\nbody\r\n0\r\n\r\n")
    assert ask(port, "/whole").endswith(b"\r\n\r\nbody")
    assert ask(port, "/cut", version="1.0").endswith(b"\r\n\r\nbody")
    both = ask(port, "/cut", "/").lower()
    assert both.count(b"x-finish-reason") == 1
    assert both.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("request_", [b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/9\r\n\r\n"])
def test_what_is_not_http_gets_an_error_in_the_form_of_all_others(
    port: int, request_: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(request_)
        data = b""
        while chunk := connection.recv(65_536):
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == 400
