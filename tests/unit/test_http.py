"""The HTTP helper against a real server on this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from higgs_image import http
from higgs_image.errors import NetworkError
from higgs_image.ports import free_port


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("X-Seen", self.headers.get("X-Given", ""))
        self.end_headers()
        self.wfile.write(b'{"sent": "' + body + b'"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_answer_has_status_headers_and_body(url: str) -> None:
    answer = http.request("POST", f"{url}/x", headers={"X-Given": "1"}, body=b"hello")
    assert (answer.status, answer.headers["x-seen"]) == (200, "1")
    assert answer.json() == {"sent": "hello"}


def test_error_status_is_an_answer(url: str) -> None:
    answer = http.request("POST", f"{url}/missing", body=b"hello")
    assert (answer.status, answer.reason) == (404, "Not Found")
    assert answer.json() == {"sent": "hello"}


def test_proxy_is_not_asked_for_this_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert http.request("POST", url, body=b"").status == 200


def test_no_server_is_a_network_error() -> None:
    port = free_port()
    with pytest.raises(NetworkError, match=f"GET http://127.0.0.1:{port}/: no answer") as caught:
        http.request("GET", f"http://127.0.0.1:{port}/")
    assert caught.value.transient


def test_silent_server_is_a_network_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(NetworkError, match="timed out"):
            http.request("GET", f"http://127.0.0.1:{port}/", timeout=0.2)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/", "localhost:80", "http://[::1"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(NetworkError, match="is not an http or https URL"):
        http.request("GET", url)
