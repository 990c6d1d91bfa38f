"""Answers HTTP while the server loads, and GET /ping on a separate port at any time.

A model takes minutes to load, longer if its weights are downloaded first, and the server does not
listen in that time. The placeholder does: a platform that polls /ping gets 204, and a person gets
the reason instead of a refused connection.

The server binds its port early with SO_REUSEPORT and listens late. The placeholder does the same
and asks the kernel to route every connection to the other socket as soon as that one listens. Until
then the placeholder receives all connections; afterwards it receives none, and closes. The port is
never unattended, no client is sent back to the placeholder, and no proxy remains in between.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
import time
from contextlib import suppress

from higgs_runtime.answers import REASONS, CorsPolicy, answer
from higgs_runtime.errors import PortTakenError
from higgs_runtime.state import ServerState

LARGEST_HEAD = 16_384
HEAD_SECONDS = 2.0
"""Time in which a client must send the head of its request."""
MOST_CLIENTS = 64
SERVER = "higgs-runtime"
"""Value of the Server header, which tells these answers from the server's own."""


class Placeholder:
    """Answers on one address, in threads, until it is closed.

    Args:
        host: address.
        port: port; 0 chooses a free one.
        state: the state that is reported.
        cors: the policy for browsers.
        source: the variable that set the port, for the error.

    Raises:
        PortTakenError: the address cannot be bound.
    """

    def __init__(
        self,
        host: str,
        port: int,
        state: ServerState,
        cors: CorsPolicy | None = None,
        source: str = "PORT",
    ) -> None:
        self._state = state
        self._cors = cors or CorsPolicy()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            if port:  # SO_REUSEPORT alone would let two servers share a port unnoticed
                _bound(family, host, port, socket.SO_REUSEADDR).close()
            self._socket = _bound(family, host, port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
            _prefer_other_socket(self._socket)
            self._socket.listen(128)
        except OSError as error:
            raise PortTakenError(
                f"port {port} on {host} cannot be used: {error.strerror}",
                f"stop the program that uses it, or set {source} to another port (1024 or above "
                "without root)",
            ) from None
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._wake, self._woken = os.pipe()
        self._clients = threading.BoundedSemaphore(MOST_CLIENTS)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer the clients that are waiting, then stop listening; safe to call twice."""
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
                except OSError:  # no client is waiting, or it has gone
                    break
                if self._clients.acquire(blocking=False):
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()
                else:
                    client.close()
        self._socket.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, suppress(OSError):
                client.settimeout(HEAD_SECONDS)
                head = _read_head(client)
                if head:
                    client.sendall(respond(head, self._state, self._cors))
                client.shutdown(socket.SHUT_WR)
                deadline = time.monotonic() + HEAD_SECONDS  # a reset would discard the answer
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
"""From Linux's <asm-generic/socket.h>; Python does not define it."""
RETURN = 0x06
"""BPF_RET | BPF_K from <linux/bpf_common.h>: return a constant."""


def _prefer_other_socket(listener: socket.socket) -> None:
    """Route all connections to the second socket that listens on this port.

    A BPF program of one instruction selects socket number 1, in order of listen(). As long as that
    number does not exist, or if the kernel lacks such programs, the kernel selects as usual.
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", RETURN, 0, 0, 1))
    with suppress(OSError):
        filter_ = struct.pack("HP", 1, ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, filter_)


def _read_head(client: socket.socket) -> bytes:
    head = b""
    deadline = time.monotonic() + HEAD_SECONDS
    while b"\r\n\r\n" not in head and len(head) < LARGEST_HEAD and time.monotonic() < deadline:
        chunk = client.recv(4096)
        if not chunk:
            break
        head += chunk
    return head


def respond(head: bytes, state: ServerState, cors: CorsPolicy) -> bytes:
    """Return the response to a request.

    Args:
        head: at least the request line.
        state: the state that is reported.
        cors: the policy for browsers.
    """
    first, *lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    request: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line.isascii() and line.isprintable():  # some values are sent back
            request[name.strip().lower()] = value.strip()
    status, headers, body = answer(state, method, _path(rest.partition(" ")[0]), request, cors)
    if status != 204:
        headers["Content-Length"] = str(len(body))
    text = [f"HTTP/1.1 {status} {REASONS[status]}", f"Server: {SERVER}", "Connection: close"]
    text += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*text, "", ""]).encode("latin-1") + (b"" if method == "HEAD" else body)


def _path(target: str) -> str:
    """Return the path of a request target, which may be a whole URL; the Host has no part in it."""
    if "://" in target and not target.startswith("/"):
        target = "/" + target.partition("://")[2].partition("/")[2]
    return target.partition("?")[0]


def server_answers(
    host: str, port: int, *, plain: bool = True, seconds: float = HEAD_SECONDS
) -> bool:
    """Return whether the server itself, and not a placeholder, answers /ping with 200 on its port.

    Args:
        host: address on which it listens.
        port: its port.
        plain: whether it speaks HTTP; otherwise a connection counts as an answer.
        seconds: time in which it must answer.
    """
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared only)
    try:
        with socket.create_connection((local, port), timeout=seconds) as connection:
            if not plain:
                return True
            connection.sendall(
                b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            head = _read_head(connection)
    except OSError:
        return False
    return head.startswith(b"HTTP/1.1 200 ") and f"Server: {SERVER}".encode() not in head
