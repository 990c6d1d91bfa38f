"""uvicorn's HTTP/1.1, with trailers, and with errors in the form of all others."""

from __future__ import annotations

import json
from typing import Any

import h11
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from higgs_patches.lib.errors import error_body

_TRAILERS = "higgs.trailers"


def set_trailers(scope: Scope, headers: dict[str, str]) -> None:
    """Send these headers after the body of the answer to this request, if its client can."""
    scope.setdefault(_TRAILERS, []).extend(
        (name.encode(), value.encode()) for name, value in headers.items()
    )


class ServerProtocol(H11Protocol):
    """Sends trailers, which are headers after a streamed body, and JSON to what is not HTTP."""

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

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, and close the connection."""
        body = json.dumps(error_body(msg, 400)).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        head = h11.Response(status_code=400, headers=[*headers, ("connection", "close")])
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
