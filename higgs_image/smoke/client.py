"""Requests to the server under test, with what a listener notices: when the bytes came."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GAP = 0.01
"""Seconds between two reads that make them two pieces: what lies closer was sent as one."""

LARGEST = 100_000_000
"""Bytes of an answer that cannot be one any more: half an hour of sound."""


class Broken(Exception):
    """No whole answer came; the text says what did."""


class Hanging(Broken):
    """Nothing more came in time."""


@dataclass(frozen=True)
class Answer:
    """An answer and when it came.

    Attributes:
        status: of HTTP.
        type: its Content-Type, without parameters, in lower case.
        body: all of it.
        first_s: seconds until the first byte of the body, or until the end if it has none.
        seconds: until the last one.
        pieces: how many groups of bytes came, apart in time.
    """

    status: int
    type: str
    body: bytes
    first_s: float
    seconds: float
    pieces: int

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            Broken: it is none.
        """
        try:
            return json.loads(self.body)
        except ValueError:
            raise Broken(f"the answer is no JSON: {self.body[:100]!r}") from None


@dataclass(frozen=True)
class Client:
    """A client of one server.

    Attributes:
        port: on 127.0.0.1.
        patience: seconds without a byte after which an answer counts as hanging.
        limit: seconds after which any answer does.
    """

    port: int
    patience: float = 120.0
    limit: float = 300.0

    def get(self, path: str) -> Answer:
        """Ask for a path."""
        return self.ask("GET", path)

    def post(self, path: str, value: Mapping[str, Any]) -> Answer:
        """Send a JSON object."""
        return self.ask("POST", path, json.dumps(value).encode())

    def ask(
        self, method: str, path: str, body: bytes | None = None, type: str = "application/json"
    ) -> Answer:
        """Send a request and read the whole answer.

        Raises:
            Broken: the connection was refused or cut.
            Hanging: nothing more came in time.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.patience)
        started = last = time.monotonic()
        received, first, pieces = bytearray(), 0.0, 0
        try:
            connection.request(method, path, body, {"Content-Type": type} if body else {})
            answer = connection.getresponse()
            while block := answer.read1(1 << 16):
                now = time.monotonic()
                first = first or now - started
                pieces += not received or now - last > GAP
                received += block
                last = now
                if len(received) > LARGEST:
                    raise Broken(f"the answer had not ended after {len(received)} bytes")
                if now - started > self.limit:
                    raise Hanging(f"the answer had not ended after {self.limit:.0f} s")
            if answer.length:
                raise Broken(f"the answer ended {answer.length} bytes before its announced length")
        except TimeoutError:
            raise Hanging(
                f"nothing came for {self.patience:.0f} s, after {len(received)} bytes"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            what = f"{type_name(error)}: {error}" if str(error) else type_name(error)
            raise Broken(f"{what}, after {len(received)} bytes") from None
        finally:
            connection.close()
        seconds = time.monotonic() - started
        kind = (answer.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        return Answer(answer.status, kind, bytes(received), first or seconds, seconds, pieces)


def type_name(error: BaseException) -> str:
    """Return what kind of error it is, as a person reads it."""
    return type(error).__name__
