"""What answers while the server loads: /ping, everything else, bad clients, and the hand-over."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from higgs_runtime import front
from higgs_runtime.errors import PortTaken
from higgs_runtime.front import DRAINING, READY, Listener, State


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def listener(state: State) -> Iterator[Listener]:
    made = Listener("127.0.0.1", 0, state)
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


def test_ping_follows_the_state(listener: Listener, state: State) -> None:
    assert ask(listener.port, "GET", "/ping") == (204, b"")
    assert ask(listener.port, "GET", "/ping?x=1") == (204, b"")
    state.phase = READY
    assert ask(listener.port, "GET", "/ping") == (200, b'{"status": "ready"}')
    assert ask(listener.port, "HEAD", "/ping") == (200, b"")
    state.phase = DRAINING
    assert ask(listener.port, "GET", "/ping")[0] == 503


def test_a_person_sees_why_there_is_no_sound_yet(listener: Listener, state: State) -> None:
    state.doing("downloading the model: 3.1 of 11.5 GB, 27 %")
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


def test_a_port_for_ping_alone_answers_nothing_else(listener: Listener, state: State) -> None:
    state.phase = READY
    status, answer = ask(listener.port, "GET", "/v1/models")
    assert status == 404 and b"GET /ping only" in answer


@pytest.mark.parametrize("head", [b"", b"\r\n\r\n", b"nonsense", b"GET /ping", b"\x00" * 20_000])
def test_bad_clients_do_no_harm(listener: Listener, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", listener.port)) as client:
        client.sendall(head)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(10)
        while client.recv(1000):
            pass
    assert ask(listener.port, "GET", "/ping")[0] == 204


def test_silent_clients_do_not_keep_others_out(listener: Listener) -> None:
    silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(40)]
    try:
        assert ask(listener.port, "GET", "/ping")[0] == 204
    finally:
        for client in silent:
            client.close()


def test_too_many_clients_are_dropped_and_places_come_back(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [
        socket.create_connection(("127.0.0.1", listener.port))
        for _ in range(front.MOST_CLIENTS + 20)
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


def test_a_taken_port_is_refused(listener: Listener, state: State) -> None:
    """Also by a socket that would share it."""
    with pytest.raises(PortTaken, match=f"port {listener.port} on 127.0.0.1 cannot be used") as it:
        Listener("127.0.0.1", listener.port, state, "PORT_HEALTH")
    assert "PORT_HEALTH" in it.value.hint
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1"):
        Listener("192.0.2.1", 18997, state)


def test_ipv6(state: State) -> None:
    try:
        made = Listener("::1", 0, state)
    except PortTaken as error:
        pytest.skip(error.message)
    assert not front.server_answers("::", made.port), "it is no server that answers there"
    made.close()


def test_closing_twice(state: State) -> None:
    made = Listener("127.0.0.1", 0, state)
    made.close()
    made.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", made.port))


def test_who_is_waiting_is_answered_at_the_end(state: State) -> None:
    for _ in range(20):
        made = Listener("127.0.0.1", 0, state)
        with socket.create_connection(("127.0.0.1", made.port)) as client:
            client.sendall(b"GET /ping HTTP/1.1\r\n\r\n")
            made.close()
            client.settimeout(10)
            assert client.recv(100).startswith(b"HTTP/1.1 204 ")


def test_hand_over_to_a_server_that_shares_the_port(listener: Listener) -> None:
    """It binds early, listens late, and then gets everything: nothing is refused or told twice."""
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
    assert not front.server_answers("127.0.0.1", listener.port)

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
    assert front.server_answers("127.0.0.1", listener.port), "at once"
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


def test_a_server_with_a_certificate_is_asked_for_a_connection_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert front.server_answers("0.0.0.0", port, plain=False)
    assert not front.server_answers("0.0.0.0", port, plain=False)
