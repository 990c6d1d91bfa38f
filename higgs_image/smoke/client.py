"""A client of the server under test that measures when each part of an answer arrives."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Self
from urllib.parse import urlsplit

from higgs_image import http

GAP = 0.01
"""Seconds between two reads that make them two chunks: closer bytes were sent as one."""

LARGEST = 100_000_000
"""Bytes after which an answer is broken: more than half an hour of sound."""


class BrokenAnswerError(Exception):
    """The answer is not whole; the message says what arrived."""


class HangingAnswerError(BrokenAnswerError):
    """Nothing more arrived in time."""


@dataclass(frozen=True)
class TimedAnswer:
    """An answer and its timing.

    Attributes:
        status: HTTP status code.
        type: Content-Type without parameters, in lower case.
        body: all of it.
        first_s: seconds until the first byte of the body, or until the end of an empty one.
        seconds: seconds until the last byte.
        chunks: groups of bytes that arrived apart in time.
    """

    status: int
    type: str
    body: bytes
    first_s: float
    seconds: float
    chunks: int

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            BrokenAnswerError: it is not JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError:
            raise BrokenAnswerError(f"the answer is not JSON: {self.body[:100]!r}") from None


@dataclass(frozen=True)
class TimedClient:
    """A client of one server: on this machine, or behind a proxy.

    Attributes:
        port: of the host.
        timeout: seconds without a byte after which an answer is hanging.
        limit: seconds after which an answer that still goes on is hanging.
        host: name or address.
        tls: whether it is asked by https.
        root: put before every path.
        key: the server's API key; empty: none.
    """

    port: int
    timeout: float = 120.0
    limit: float = 300.0
    host: str = "127.0.0.1"
    tls: bool = False
    root: str = ""
    key: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str, *, key: str = "", timeout: float = 120.0) -> Self:
        """Return a client of the server with this http or https URL."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        return cls(
            parts.port or (443 if tls else 80), timeout, host=parts.hostname or "", tls=tls,
            root=parts.path.rstrip("/"), key=key,
        )  # fmt: skip

    def get(self, path: str) -> TimedAnswer:
        """Send a GET request."""
        return self.ask("GET", path)

    def post(self, path: str, value: Mapping[str, Any]) -> TimedAnswer:
        """Send a JSON object."""
        return self.ask("POST", path, json.dumps(value).encode())

    def ask(self, method: str, path: str, body: bytes | None = None) -> TimedAnswer:
        """Send a request, with a body as JSON, and read the whole answer.

        Raises:
            BrokenAnswerError: the connection was refused or cut.
            HangingAnswerError: nothing more arrived in time.
        """
        connection = http.connection(self.host, self.port, tls=self.tls, timeout=self.timeout)
        headers = {"Content-Type": "application/json"} if body else {}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        started = last = time.monotonic()
        received, first, chunks = bytearray(), 0.0, 0
        try:
            connection.request(method, self.root + path, body, headers)
            answer = connection.getresponse()
            while block := answer.read1(1 << 16):
                now = time.monotonic()
                first = first or now - started
                chunks += not received or now - last > GAP
                received += block
                last = now
                if len(received) > LARGEST:
                    raise BrokenAnswerError(f"the answer goes on after {len(received)} bytes")
                if now - started > self.limit:
                    raise HangingAnswerError(f"the answer goes on after {self.limit:.0f} s")
            if answer.length:
                raise BrokenAnswerError(
                    f"the answer ended {answer.length} bytes before its announced length"
                )
        except TimeoutError:
            raise HangingAnswerError(
                f"nothing arrived for {self.timeout:.0f} s, after {len(received)} bytes"
            ) from None
        except (OSError, HTTPException) as error:
            what = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise BrokenAnswerError(f"{what}, after {len(received)} bytes") from None
        finally:
            connection.close()
        seconds = time.monotonic() - started
        content = (answer.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        return TimedAnswer(
            answer.status, content, bytes(received), first or seconds, seconds, chunks
        )
