"""What the tests' own HTTP servers have in common."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "expect", "te",
       "upgrade"}  # fmt: skip
"""Headers of one hop, in lower case: no proxy passes them on."""


class BusyHTTPServer(ThreadingHTTPServer):
    """Takes many connections at once, and says nothing of clients that hang up.

    With the default of five waiting connections the kernel drops some of 24 that come at once, and
    a client tries again only after one, three and seven seconds.
    """

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore it."""


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open, and logs nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def answer(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        """Send an answer; to HEAD without its body."""
        self.send_response(status)
        length = {} if status == 204 else {"Content-Length": str(len(data))}
        for name, value in {**length, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def reset(self) -> None:
        """Cut the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


class Served:
    """A server that runs in a thread, as long as its context is open.

    Args:
        handler: of its requests.
        host: address to listen on.

    Attributes:
        port: a free one.
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler], host: str = "127.0.0.1") -> None:
        self._server = BusyHTTPServer((host, 0), handler)
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class RequestFault:
    """What to do with requests of one kind.

    Attributes:
        method: of the request; a regular expression.
        path: a regular expression that is searched for in the path.
        status: of the answer; 0: reset the connection; -1: pass on (after the delay).
        headers: of the answer.
        delay: seconds before it.
        times: how often; later requests pass.
        seen: how often so far.
    """

    method: str
    path: str
    status: int = 0
    _: KW_ONLY
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    times: int = 1_000_000
    seen: int = 0

    def takes(self, method: str, path: str) -> bool:
        """Tell whether it is for a request, and count that."""
        fits = re.fullmatch(self.method, method) and re.search(self.path, path)
        if not fits or self.seen >= self.times:
            return False
        self.seen += 1
        return True
