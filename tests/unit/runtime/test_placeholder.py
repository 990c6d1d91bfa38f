"""The placeholder: /ping, other requests, misbehaving clients, and the handover to the server."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from higgs_runtime import placeholder
from higgs_runtime.errors import PortTakenError
from higgs_runtime.placeholder import Placeholder
from higgs_runtime.state import Phase, ServerState

from higgs_image.ports import free_port


@pytest.fixture
def state() -> ServerState:
    return ServerState()


@pytest.fixture
def listener(state: ServerState) -> Iterator[Placeholder]:
    made = Placeholder("127.0.0.1", 0, state)
    yield made
    made.close()


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        assert answer.headers["Connection"] == "close"
        return answer.status, answer.read()
    finally:
        connection.close()


def test_ping_follows_the_state(listener: Placeholder, state: ServerState) -> None:
    assert ask(listener.port, "GET", "/ping") == (204, b"")
    assert ask(listener.port, "GET", "/ping?x=1") == (204, b"")
    state.phase = Phase.READY
    assert ask(listener.port, "GET", "/ping") == (200, b'{"status":"ready"}')
    assert ask(listener.port, "HEAD", "/ping") == (200, b"")
    state.phase = Phase.DRAINING
    assert ask(listener.port, "GET", "/ping")[0] == 503


def test_other_requests_get_the_reason_while_loading(
    listener: Placeholder, state: ServerState
) -> None:
    state.report("downloading the model: 3.1 of 11.5 GB, 27 %")
    for method, path, body in (
        ("GET", "/health", None),
        ("GET", "/v1/models", None),
        ("POST", "/v1/audio/speech", b"x" * 30_000_000),
        ("POST", "/ping", b"x"),
    ):
        status, answer = ask(listener.port, method, path, body)
        assert status == 503
        assert json.loads(answer)["error"]["message"] == (
            "the server is starting: downloading the model: 3.1 of 11.5 GB, 27 %"
        )


def test_health_port_answers_ping_only(listener: Placeholder, state: ServerState) -> None:
    state.phase = Phase.READY
    status, answer = ask(listener.port, "GET", "/v1/models")
    assert status == 404 and b"GET /ping only" in answer


@pytest.mark.parametrize("head", [b"", b"\r\n\r\n", b"nonsense", b"GET /ping", b"\x00" * 20_000])
def test_malformed_requests_are_survived(listener: Placeholder, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", listener.port)) as client:
        client.sendall(head)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(10)
        while client.recv(1000):
            pass
    assert ask(listener.port, "GET", "/ping")[0] == 204


def test_idle_clients_do_not_block_others(listener: Placeholder) -> None:
    idle = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(40)]
    try:
        assert ask(listener.port, "GET", "/ping")[0] == 204
    finally:
        for client in idle:
            client.close()


def test_client_limit_recovers(listener: Placeholder, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [
        socket.create_connection(("127.0.0.1", listener.port))
        for _ in range(placeholder.MOST_CLIENTS + 20)
    ]
    for client in many:
        client.close()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert ask(listener.port, "GET", "/ping")[0] == 204
            break
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_taken_port_is_refused(listener: Placeholder, state: ServerState) -> None:
    """Even though SO_REUSEPORT would allow to share it."""
    with pytest.raises(
        PortTakenError, match=f"port {listener.port} on 127.0.0.1 cannot be used"
    ) as it:
        Placeholder("127.0.0.1", listener.port, state, source="PORT_HEALTH")
    assert "PORT_HEALTH" in it.value.hint
    with pytest.raises(PortTakenError, match=r"192\.0\.2\.1"):
        Placeholder("192.0.2.1", 18997, state)


def test_ipv6(state: ServerState) -> None:
    try:
        made = Placeholder("::1", 0, state)
    except PortTakenError as error:
        pytest.skip(error.message)
    assert not placeholder.server_answers("::", made.port), "a placeholder is not the server"
    made.close()


def test_close_twice(state: ServerState) -> None:
    made = Placeholder("127.0.0.1", 0, state)
    made.close()
    made.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", made.port))


def test_waiting_client_is_answered_on_close(state: ServerState) -> None:
    for _ in range(20):
        made = Placeholder("127.0.0.1", 0, state)
        with socket.create_connection(("127.0.0.1", made.port)) as client:
            client.sendall(b"GET /ping HTTP/1.1\r\n\r\n")
            made.close()
            client.settimeout(10)
            assert client.recv(100).startswith(b"HTTP/1.1 204 ")


def test_handover_to_a_server_on_the_same_port(listener: Placeholder) -> None:
    """The server binds early, listens late, and then gets every connection; none is refused."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(("127.0.0.1", listener.port))
    statuses: list[bytes] = []
    done = threading.Event()

    def clients() -> None:
        while not done.is_set():
            with socket.create_connection(("127.0.0.1", listener.port), 10) as client:
                client.sendall(b"GET /ping HTTP/1.1\r\n\r\n")
                statuses.append(client.recv(12))

    asking = threading.Thread(target=clients)
    asking.start()
    while len(statuses) < 50:
        time.sleep(0.01)
    assert set(statuses) == {b"HTTP/1.1 204"}
    assert not placeholder.server_answers("127.0.0.1", listener.port)

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    server.listen(128)
    threading.Thread(target=serve, daemon=True).start()
    assert placeholder.server_answers("127.0.0.1", listener.port), "at once"
    count = len(statuses)
    while len(statuses) < count + 50:
        time.sleep(0.01)
    listener.close()
    count = len(statuses)
    while len(statuses) < count + 50:
        time.sleep(0.01)
    done.set()
    asking.join()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    assert set(statuses) == {b"HTTP/1.1 204", b"HTTP/1.1 200"}
    assert statuses == sorted(statuses, reverse=True), "never 204 after 200"


def test_tls_server_counts_as_answering_when_it_accepts() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert placeholder.server_answers("0.0.0.0", port, plain=False)
    assert not placeholder.server_answers("0.0.0.0", port, plain=False)
