"""The HTTP server of the tests' own servers."""

from __future__ import annotations

from http.server import ThreadingHTTPServer
from typing import Any


class BusyHTTPServer(ThreadingHTTPServer):
    """Takes many connections at once, and says nothing of clients that hang up.

    With the default of five waiting connections the kernel drops some of 24 that come at once, and
    a client tries again only after one, three and seven seconds.
    """

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore it."""
