"""Connections to the speech server, which are kept for the next request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from higgs_generate.server_connection import ServerConnection

CONNECT_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 60.0
"""Less than the server's 90 s: it never closes a connection that is just being used."""


class ConnectionPool:
    """Opens connections, and keeps those that can be used again.

    Args:
        url: of the server.
        headers: what every request has.
        timeout: seconds without a byte of an answer after which it fails.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = quote(parts.path, safe="/%:@!$&'()*+,;=~").encode()
        named = {"Host": parts.netloc, "User-Agent": "higgs-generate", "Accept": "*/*", **headers}
        self._head = "".join(f"{name}: {text}\r\n" for name, text in named.items()).encode()
        self._timeout = timeout
        self._idle: dict[ServerConnection, float] = {}

    async def take(self, *, new: bool = False) -> tuple[ServerConnection, bool]:
        """Return a connection, and whether it was used before.

        Args:
            new: leave the kept ones where they are.

        Raises:
            OSError: the server cannot be reached; TimeoutError: not in time.
        """
        loop = asyncio.get_running_loop()
        while self._idle and not new:
            connection, since = self._idle.popitem()  # the one that was used last
            if connection.reusable and loop.time() - since < KEEP_ALIVE_SECONDS:
                return connection, True
            connection.close()
        async with asyncio.timeout(CONNECT_SECONDS):
            _, connection = await loop.create_connection(
                lambda: ServerConnection(self._timeout, self._forget),
                self._host, self._port, ssl=self._tls,
            )  # fmt: skip
        return connection, False

    def give_back(self, connection: ServerConnection) -> None:
        """Keep a connection if its answer is complete; else close it."""
        if connection.reusable:
            self._idle[connection] = asyncio.get_running_loop().time()
        else:
            connection.close()

    def request(self, method: str, path: str, body: bytes | None, request_id: str) -> bytes:
        """Return a request as it is sent."""
        head = b"%b %b%b HTTP/1.1\r\n%b" % (
            method.encode(), self._path, path.encode(), self._head,
        )  # fmt: skip
        if request_id:
            head += b"X-Request-Id: %b\r\n" % request_id.encode()
        if body is None:
            return head + b"\r\n"
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def close(self) -> None:
        """Close the kept connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _forget(self, connection: ServerConnection) -> None:
        self._idle.pop(connection, None)
