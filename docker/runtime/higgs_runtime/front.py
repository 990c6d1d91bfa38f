"""What answers HTTP while the server loads, and GET /ping on a port of its own at any time.

A model takes minutes to load, longer if its weights are downloaded first, and in that time the
server does not listen. These few lines do, so that a platform that asks for /ping sees 204, and a
person sees why there is no sound yet, instead of a refused connection.

The server binds its port with SO_REUSEPORT, early, and listens late. So does this listener, and it
asks the kernel to give every connection to the other socket, once there is one. Until the server
listens there is none, and this one gets them all; from then on it gets nothing, and closes. There
is no moment at which nobody listens, nobody who was answered by the server is answered from here
again, and no proxy stays in between.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import struct
import threading
import time
from contextlib import suppress

from higgs_runtime.errors import PortTaken

LOADING, READY, DRAINING = "loading", "ready", "draining"

LARGEST_HEAD = 16_384
PATIENCE = 2.0
"""Seconds that a client may take to send the head of its request."""
MOST_CLIENTS = 64
SERVER = "higgs-runtime"
"""What these answers have as their Server header: tells them from the server's own."""


class State:
    """What is going on, as clients are told.

    Attributes:
        phase: LOADING, READY or DRAINING.
        activity: what is being done while it loads, for a person.
    """

    def __init__(self) -> None:
        self.phase = LOADING
        self.activity = "starting"

    def doing(self, activity: str) -> None:
        """Say what is being done."""
        self.activity = activity


class Listener:
    """Answers on one address, in threads, until it is closed.

    Args:
        host: address.
        port: 0 takes a free one.
        state: what is answered.
        source: the variable that set the port, for the error.

    Raises:
        PortTaken: the address cannot be bound.
    """

    def __init__(self, host: str, port: int, state: State, source: str = "PORT") -> None:
        self._state = state
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            if port:  # SO_REUSEPORT alone would let two servers share a port unnoticed
                _bound(family, host, port, socket.SO_REUSEADDR).close()
            self._socket = _bound(family, host, port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
            _prefer_the_other(self._socket)
            self._socket.listen(128)
        except OSError as error:
            raise PortTaken(
                f"port {port} on {host} cannot be used: {error.strerror}",
                f"end what uses it, or set {source} to another port (1024 or above without root)",
            ) from None
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._wake, self._woken = os.pipe()
        self._clients = threading.BoundedSemaphore(MOST_CLIENTS)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer who is waiting already, then stop listening. Closing it twice does no harm."""
        if self._thread.is_alive():
            os.write(self._woken, b"x")
            self._thread.join()
            os.close(self._wake)
            os.close(self._woken)

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        closing = False
        while not closing:
            closing = any(file == self._wake for file, _ in poll.poll())
            while True:
                try:
                    client, _ = self._socket.accept()
                except OSError:  # nobody is waiting any more, or whoever was has gone
                    break
                if self._clients.acquire(blocking=False):
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()
                else:
                    client.close()
        self._socket.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, suppress(OSError):
                client.settimeout(PATIENCE)
                head = _read_head(client)
                if head:
                    client.sendall(answer(head, self._state))
                client.shutdown(socket.SHUT_WR)
                deadline = time.monotonic() + PATIENCE  # a reset would take the answer away again
                while client.recv(65_536) and time.monotonic() < deadline:
                    pass
        finally:
            self._clients.release()


def _bound(family: socket.AddressFamily, host: str, port: int, *options: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            made.setsockopt(socket.SOL_SOCKET, option, 1)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made


SO_ATTACH_REUSEPORT_CBPF = 51
"""Of Linux, <asm-generic/socket.h>; Python does not name it."""
RETURN = 0x06
"""BPF_RET | BPF_K, <linux/bpf_common.h>: end with a constant."""


def _prefer_the_other(listener: socket.socket) -> None:
    """Let the second socket that listens on this port have all connections.

    A program of one instruction chooses number 1 among those that listen, in order of their
    listening. While there is no such number, or if this kernel has no such programs, it chooses as
    it would anyway.
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", RETURN, 0, 0, 1))
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF,
            struct.pack("HP", 1, ctypes.addressof(program)),
        )  # fmt: skip


def _read_head(client: socket.socket) -> bytes:
    head = b""
    deadline = time.monotonic() + PATIENCE
    while b"\r\n\r\n" not in head and len(head) < LARGEST_HEAD and time.monotonic() < deadline:
        piece = client.recv(4096)
        if not piece:
            break
        head += piece
    return head


def answer(head: bytes, state: State) -> bytes:
    """Return the answer to a request.

    Args:
        head: at least the request line.
        state: what is going on.
    """
    method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path == b"/ping" and method in (b"GET", b"HEAD"):
        status = {LOADING: 204, READY: 200}.get(state.phase, 503)
    else:
        status = 404 if state.phase == READY else 503
    return _response(status, state, with_body=method != b"HEAD")


_REASONS = {200: "OK", 204: "No Content", 404: "Not Found", 503: "Service Unavailable"}


def _response(status: int, state: State, *, with_body: bool) -> bytes:
    body = b""
    if status == 200:
        body = b'{"status": "ready"}'
    elif status != 204:
        message = {
            LOADING: f"the server is starting: {state.activity}",
            DRAINING: "the server is ending",
        }.get(state.phase, "this port answers GET /ping only")
        kind = "invalid_request_error" if status == 404 else "server_error"
        error = {"message": message, "type": kind, "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Server: {SERVER}",
        "Connection: close",
        "Cache-Control: no-store",
    ]
    if status != 204:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if status == 503:
        lines.append("Retry-After: 5")
    return "\r\n".join([*lines, "", ""]).encode() + (body if with_body else b"")


def server_answers(host: str, port: int, *, plain: bool = True) -> bool:
    """Return whether the server itself, not a listener of ours, answers on its port.

    Args:
        host: address that it listens on.
        port: its port.
        plain: it speaks HTTP; otherwise a connection is taken for an answer.
    """
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        with socket.create_connection((local, port), timeout=PATIENCE) as connection:
            if not plain:
                return True
            connection.sendall(
                b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            head = _read_head(connection)
    except OSError:
        return False
    return head.startswith(b"HTTP/1.1 200 ") and f"Server: {SERVER}".encode() not in head
