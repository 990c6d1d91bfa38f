"""The timed client notices answers that hang, break off, or arrive in chunks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from higgs_image.ports import free_port
from higgs_image.smoke import client
from higgs_image.smoke.client import BrokenAnswerError, HangingAnswerError, TimedClient

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: Audio/WAV; rate=1\r\n"


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that answers one request by this function."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(timeout=5)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_a_chunked_answer() -> None:
    def answer(to: socket.socket) -> None:
        to.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for part in (b"one", b"two", b"three"):
            to.sendall(chunk(part))
            time.sleep(0.05)
        to.sendall(chunk(b""))

    with server(answer) as port:
        found = TimedClient(port).get("/")
    assert (found.status, found.type, found.body) == (200, "audio/wav", b"onetwothree")
    assert found.chunks == 3
    assert 0 < found.first_s < found.seconds and found.seconds > 0.1


def test_an_answer_at_once_is_one_chunk_however_large() -> None:
    body = bytes(5_000_000)

    def answer(to: socket.socket) -> None:
        to.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    with server(answer) as port:
        found = TimedClient(port).get("/")
    assert found.body == body and found.chunks <= 2


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (HEAD + b"Content-Length: 100\r\n\r\nhalf", "after 4 bytes|announced"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"half"), "after 4 bytes"),
        (b"", "RemoteDisconnected"),
        (b"no HTTP at all\r\n\r\n", "BadStatusLine"),
    ],
)
def test_an_answer_that_breaks_off(sent: bytes, message: str) -> None:
    with (
        server(lambda to: to.sendall(sent)) as port,
        pytest.raises(BrokenAnswerError, match=message),
    ):
        TimedClient(port).get("/")


def test_an_answer_that_hangs() -> None:
    def answer(to: socket.socket) -> None:
        to.sendall(HEAD + b"Content-Length: 100\r\n\r\nh")
        time.sleep(1)

    with (
        server(answer) as port,
        pytest.raises(HangingAnswerError, match=r"nothing arrived for 0 s, after 1 byte"),
    ):
        TimedClient(port, timeout=0.2).get("/")


def test_an_answer_that_does_not_end() -> None:
    def answer(to: socket.socket) -> None:
        to.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(OSError):
            while True:
                to.sendall(chunk(b"more"))
                time.sleep(0.01)

    with server(answer) as port, pytest.raises(HangingAnswerError, match="goes on after 0 s"):
        TimedClient(port, limit=0.3).get("/")


def test_an_answer_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LARGEST", 1000)

    def answer(to: socket.socket) -> None:
        to.sendall(HEAD + b"Content-Length: 5000\r\n\r\n" + bytes(5000))

    with (
        server(answer) as port,
        pytest.raises(BrokenAnswerError, match=r"goes on after \d{4} bytes"),
    ):
        TimedClient(port).get("/")


def test_a_refused_connection() -> None:
    with pytest.raises(BrokenAnswerError, match="refused"):
        TimedClient(free_port()).get("/")


def test_json() -> None:
    with server(lambda to: to.sendall(HEAD + b'Content-Length: 8\r\n\r\n{"a": 1}')) as port:
        assert TimedClient(port).post("/", {"b": 2}).json() == {"a": 1}
    with (
        server(lambda to: to.sendall(HEAD + b"Content-Length: 4\r\n\r\noops")) as port,
        pytest.raises(BrokenAnswerError, match="not JSON: b'oops'"),
    ):
        TimedClient(port).get("/").json()


def test_a_server_behind_a_proxy() -> None:
    """The path of the URL comes first, and the key is sent and not shown."""

    class Echo(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"{self.path} {self.headers['Authorization']}".encode())

    with HTTPServer(("127.0.0.1", 0), Echo) as running:
        threading.Thread(target=running.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}/pod-8000/"
        client = TimedClient.of(url, key="secret-key", timeout=10)
        assert client.get("/ping").body == b"/pod-8000/ping Bearer secret-key"
    assert "secret-key" not in repr(client)


def test_a_url_names_host_port_and_scheme() -> None:
    found = TimedClient.of("https://abc-8000.proxy.runpod.net")
    assert (found.host, found.port, found.tls) == ("abc-8000.proxy.runpod.net", 443, True)
