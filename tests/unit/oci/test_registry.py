"""Our own requests to a registry: what is final, what is tried again, tokens, certificates."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from higgs_image import retry
from higgs_image.errors import (
    RegistryAuthError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnavailableError,
)
from higgs_image.files import sha256_bytes
from higgs_image.oci import certificates, registry, registry_errors
from higgs_image.oci.credentials import Credentials
from higgs_image.oci.registry import RegistryClient
from tests.support import certificate

DIGEST = "sha256:" + "a" * 64
Answer = tuple[int, dict[str, str], bytes]


class FakeRegistry:
    """Answers each request by a function of ours."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], Answer]) -> None:
        self.seen: list[tuple[str, str]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def handle_any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fake.seen.append((self.command, self.path))
                status, headers, body = answer(self)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_address[1]}"

    def client(self, login: tuple[str, str] | None = None) -> RegistryClient:
        return RegistryClient(f"{self.host}/team/image", Credentials(self.host, None, login))


Serve = Callable[[Callable[[BaseHTTPRequestHandler], Answer]], FakeRegistry]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setattr(retry, "WAIT", 0.01)
    running: list[FakeRegistry] = []

    def start(answer: Callable[[BaseHTTPRequestHandler], Answer]) -> FakeRegistry:
        running.append(FakeRegistry(answer))
        threading.Thread(target=running[-1].server.serve_forever, args=(0.01,), daemon=True).start()
        return running[-1]

    yield start
    for fake in running:
        fake.server.shutdown()
        fake.server.server_close()


def error(code: str, message: str = "injected") -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


CALLS: dict[str, Callable[[RegistryClient], object]] = {
    "GET": lambda client: client.manifest("custom"),
    "HEAD": lambda client: client.put_blob(DIGEST, b"x"),
    "PUT": lambda client: client.put_manifest("custom", b"{}", "x"),
    "DELETE": lambda client: client.delete_manifest(DIGEST),
    "list": lambda client: client.tags(),
}


@pytest.mark.parametrize("call", [x for x in CALLS if x != "HEAD"])
@pytest.mark.parametrize("status", [408, 421, 425, 429, 500, 502, 503, 504, 507, 520, 599])
def test_unknown_failures_are_retried(serve: Serve, call: str, status: int) -> None:
    left = [1]

    def answer(_: BaseHTTPRequestHandler) -> Answer:
        return (status, {}, b"") if left and left.pop() else (200, {}, b'{"tags": []}')

    fake = serve(answer)
    CALLS[call](fake.client())
    assert len(fake.seen) == 2


@pytest.mark.parametrize("status", sorted(registry_errors.FINAL))
def test_final_answers_are_not_retried(serve: Serve, status: int) -> None:
    fake = serve(lambda _: (status, {}, error("MANIFEST_INVALID")))
    with pytest.raises(RegistryError, match="MANIFEST_INVALID injected"):
        fake.client().put_manifest("custom", b"{}", "x")
    assert len(fake.seen) == 1


@pytest.mark.parametrize("code", ["BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"])
def test_a_lost_upload_is_started_again(serve: Serve, code: str) -> None:
    """ "blob upload unknown" (go-containerregistry#1318): the session was lost, not the image."""
    lost = [1]

    def answer(request: BaseHTTPRequestHandler) -> Answer:
        if request.command == "HEAD":
            return 404, {}, b""
        if request.command == "POST":
            return 202, {"Location": "/v2/team/image/blobs/uploads/1?state=x"}, b""
        return (404, {}, error(code)) if lost and lost.pop() else (201, {}, b"")

    fake = serve(answer)
    fake.client().put_blob(DIGEST, b"x")
    assert [method for method, _ in fake.seen] == ["HEAD", "POST", "PUT"] * 2
    assert fake.seen[-1][1].endswith(f"?state=x&digest=sha256%3A{'a' * 64}")


@pytest.mark.parametrize("call", [x for x in CALLS if x != "HEAD"])
def test_retry_after_is_respected_for_every_verb(serve: Serve, call: str) -> None:
    until = [0.0]

    def answer(_: BaseHTTPRequestHandler) -> Answer:
        now = time.monotonic()
        until[0] = until[0] or now + 0.9
        return (429, {"Retry-After": "1"}, b"") if now < until[0] else (200, {}, b"{}")

    fake = serve(answer)
    CALLS[call](fake.client())
    assert len(fake.seen) == 2, "asked again before its time"


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("", 0.0), ("soon", 0.0), ("-3", 0.0),
                            ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0)],
)  # fmt: skip
def test_seconds_of_retry_after(header: str, seconds: float) -> None:
    assert registry_errors.seconds_of(header) == seconds


def test_absent_manifests_tags_and_deletions(serve: Serve) -> None:
    client = serve(lambda _: (404, {}, error("NAME_UNKNOWN"))).client()
    assert client.manifest("custom") is None and client.tags() is None
    assert client.delete_manifest(DIGEST) is False
    with pytest.raises(RegistryNotFoundError):
        client.put_manifest("custom", b"{}", "x")


def test_refused_logins_are_final(serve: Serve) -> None:
    fake = serve(lambda _: (401, {"WWW-Authenticate": 'Basic realm="x"'}, error("UNAUTHORIZED")))
    with pytest.raises(RegistryAuthError) as caught:
        fake.client().manifest("custom")
    assert "docker login" in caught.value.hint and len(fake.seen) == 1


def test_bearer_token_is_fetched_with_the_login_and_kept(serve: Serve) -> None:
    def answer(request: BaseHTTPRequestHandler) -> Answer:
        if request.path.startswith("/token"):
            assert request.headers["Authorization"].startswith("Basic ")
            assert "scope=repository%3Ateam%2Fimage%3Apull" in request.path
            return 200, {}, b'{"token": "t0ken"}'
        if request.headers.get("Authorization") == "Bearer t0ken":
            return 200, {}, b"{}"
        realm = f"http://{request.headers['Host']}/token"
        challenge = f'Bearer realm="{realm}",service="s",scope="repository:team/image:pull"'
        return 401, {"WWW-Authenticate": challenge}, b""

    fake = serve(answer)
    client = fake.client(("me", "s3cret"))
    assert client.manifest("a") and client.manifest("b")
    assert [path.partition("?")[0].rpartition("/")[2] for _, path in fake.seen] == [
        "a", "token", "a", "b",
    ]  # fmt: skip


def test_list_of_tags_is_read_page_by_page(serve: Serve) -> None:
    def answer(request: BaseHTTPRequestHandler) -> Answer:
        if "last=b" in request.path:
            return 200, {}, b'{"tags": ["c"]}'
        link = '</v2/team/image/tags/list?n=2&last=b>; rel="next"'
        return 200, {"Link": link}, b'{"tags": ["a", "b"]}'

    assert serve(answer).client().tags() == ["a", "b", "c"]


@pytest.mark.parametrize("body", [b"<html>please log in</html>", b"", b"[]", b"\xff\xfe"])
def test_the_page_of_a_proxy_is_not_taken_for_an_answer(serve: Serve, body: bytes) -> None:
    client = serve(lambda _: (200, {}, body)).client()
    for call in (lambda: client.manifest("custom"), client.tags):
        with pytest.raises(RegistryUnavailableError, match="with JSON") as caught:
            call()
        assert "proxy" in caught.value.hint


def test_connections_stay_open(serve: Serve) -> None:
    ports = set()

    def answer(request: BaseHTTPRequestHandler) -> Answer:
        ports.add(request.client_address)
        return 200, {}, b"{}"

    client = serve(answer).client()
    for _ in range(20):
        client.manifest("custom")
    assert len(ports) == 1


def test_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "WAIT", 0.01)
    client = RegistryClient("127.0.0.1:1/image", Credentials("127.0.0.1:1", None))
    with pytest.raises(RegistryUnavailableError, match=r"127\.0\.0\.1:1 .*refused"):
        client.manifest("custom")


@pytest.fixture
def secured(serve: Serve, tmp_path: Path) -> tuple[FakeRegistry, Path]:
    """A registry with a self-signed certificate for localhost, and that certificate."""
    context, trusted = certificate.make(tmp_path, "DNS:localhost", "IP:127.0.0.1")
    fake = FakeRegistry(lambda _: (200, {}, b"{}"))
    fake.server.socket = context.wrap_socket(fake.server.socket, server_side=True)
    threading.Thread(target=fake.server.serve_forever, args=(0.01,), daemon=True).start()
    return fake, trusted


def test_untrusted_certificate_is_final_and_the_hint_says_how_to_trust_it(
    secured: tuple[FakeRegistry, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, trusted = secured
    monkeypatch.setattr(registry, "is_loopback", lambda _: False)
    monkeypatch.setattr(certificates, "FOLDERS", (tmp_path / "certs.d",))
    registry._pool.cache_clear()
    with pytest.raises(RegistryError, match="is not trusted") as caught:
        fake.client().manifest("custom")
    assert f"certs.d/{fake.host}/ca.crt" in caught.value.hint and not caught.value.transient

    (tmp_path / "certs.d" / fake.host).mkdir(parents=True)
    shutil.copy(trusted, tmp_path / "certs.d" / fake.host / "ca.crt")
    registry._pool.cache_clear()
    assert fake.client().manifest("custom") == (b"{}", "")
    registry._pool.cache_clear()


def test_blob_is_compared_with_its_digest(serve: Serve) -> None:
    client = serve(lambda _: (200, {}, b"x")).client()
    assert client.blob(f"sha256:{sha256_bytes(b'x')}") == b"x"
    with pytest.raises(RegistryError.__mro__[1], match="other content"):
        client.blob(DIGEST)
