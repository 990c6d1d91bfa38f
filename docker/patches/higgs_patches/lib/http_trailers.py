"""HTTP trailers: headers after the body of a streamed answer."""

from __future__ import annotations

from typing import Any

import h11
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

_TRAILERS = "higgs.trailers"


def set_trailers(scope: Scope, headers: dict[str, str]) -> None:
    """Send these headers after the body of the answer to this request, if its client can."""
    scope.setdefault(_TRAILERS, []).extend(
        (name.encode(), value.encode()) for name, value in headers.items()
    )


class TrailerProtocol(H11Protocol):
    """uvicorn's protocol for HTTP/1.1, which has no trailers, with trailers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        connection: Any = self.conn
        send = connection.send

        def send_with_trailers(event: Any) -> Any:
            trailers: Any = self.cycle.scope.get(_TRAILERS) if self.cycle else None
            chunked = (connection.their_http_version or b"") >= b"1.1"
            if isinstance(event, h11.EndOfMessage) and trailers and chunked:
                event = h11.EndOfMessage(headers=trailers)
            return send(event)

        connection.send = send_with_trailers
