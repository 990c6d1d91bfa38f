"""A proxy before a real registry that answers some requests with a fault of our choice."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass

from tests.support.http_server import HOP, QuietHandler, RequestFault, Served

CODES = {
    401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS",
}  # fmt: skip
"""What registries name these errors (OCI distribution specification)."""


@dataclass
class Fault(RequestFault):
    """What to do with requests of one kind; a connection is reset after half of the body.

    Attributes:
        body: of the answer; None: a registry's for its status.
    """

    body: bytes | None = None


class FaultProxy(Served):
    """Listens on a free loopback port and passes to `upstream` what no fault takes."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(QuietHandler):
            def handle_any(self) -> None:
                proxy.serve(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

        super().__init__(Handler)
        self.address = f"127.0.0.1:{self.port}"

    def serve(self, handler: QuietHandler) -> None:
        """Answer one request: by a fault, or by what the registry says."""
        method, path = handler.command, handler.path
        length = int(handler.headers.get("Content-Length") or 0)
        with self._lock:
            fault = next((x for x in self.faults if x.takes(method, path)), None)
        if fault:
            time.sleep(fault.delay)
        if fault and fault.status == 0:
            handler.rfile.read(length // 2)
            handler.reset()
            return
        body = self._body(handler, length)
        with self._lock:
            self.requests.append((method, path, len(body)))
        if fault and fault.status > 0:
            code = CODES.get(fault.status, "UNKNOWN")
            text = f'{{"errors":[{{"code":"{code}","message":"injected"}}]}}'.encode()
            text = text if fault.body is None else fault.body
            handler.answer(fault.status, text, fault.headers | {"Content-Type": "application/json"})
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
    def _body(handler: QuietHandler, length: int) -> bytes:
        if "chunked" not in handler.headers.get("Transfer-Encoding", ""):
            return handler.rfile.read(length)
        data = b""
        while size := int(handler.rfile.readline(), 16):
            data += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
        return data
