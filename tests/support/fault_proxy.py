"""A proxy before a real registry that answers some requests with a fault of our choice."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

from tests.support.http_server import BusyHTTPServer

CODES = {
    401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS",
}  # fmt: skip
"""What registries name these errors (OCI distribution specification)."""

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "expect"}


@dataclass
class Fault:
    """What to do with requests of one kind.

    Attributes:
        method: of the request; a regular expression.
        path: a regular expression that is searched for in the path.
        status: answer with this status; 0: reset the connection (after half of the body);
            -1: pass on (after the delay).
        times: how often; later requests pass.
        headers: of the answer.
    """

    method: str
    path: str
    status: int
    times: int = 1_000_000
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    body: bytes | None = None
    seen: int = 0


class FaultProxy:
    """Listens on a free loopback port and passes to `upstream` what no fault takes."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def handle_any(self) -> None:
                proxy.serve(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

        self._server = BusyHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if (
                    fault.seen < fault.times
                    and re.fullmatch(fault.method, method)
                    and re.search(fault.path, path)
                ):
                    fault.seen += 1
                    return fault
        return None

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request: by a fault, or by what the registry says."""
        method, path = handler.command, handler.path
        length = int(handler.headers.get("Content-Length") or 0)
        fault = self._fault(method, path)
        if fault and fault.delay:  # seconds
            threading.Event().wait(fault.delay)
        if fault and fault.status == 0:
            handler.rfile.read(length // 2)
            reset = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            handler.connection.close()
            handler.close_connection = True
            return
        body = self._body(handler, length)
        with self._lock:
            self.requests.append((method, path, len(body)))
        if fault and fault.status > 0:
            code = CODES.get(fault.status, "UNKNOWN")
            text = f'{{"errors":[{{"code":"{code}","message":"injected"}}]}}'.encode()
            text = text if fault.body is None else fault.body
            handler.send_response(fault.status)
            for name, value in fault.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            if method != "HEAD":
                handler.wfile.write(text)
            return
        upstream = http.client.HTTPConnection(self.upstream, timeout=60)
        upstream.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        upstream.putheader("Host", self.address)
        for name, value in handler.headers.items():  # Accept comes several times
            if name.lower() not in HOP:
                upstream.putheader(name, value)
        upstream.putheader("Content-Length", str(len(body)))
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data = answer.read()
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                handler.send_header(name, value)
        size = answer.getheader("Content-Length") if method == "HEAD" else str(len(data))
        handler.send_header("Content-Length", size or "0")
        handler.end_headers()
        handler.wfile.write(data)
        upstream.close()

    @staticmethod
    def _body(handler: BaseHTTPRequestHandler, length: int) -> bytes:
        if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
            return handler.rfile.read(length)
        data = b""
        while size := int(handler.rfile.readline(), 16):
            data += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
        return data
