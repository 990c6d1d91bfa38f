"""The id of a request: the client's, if it can be used, or a new one."""

from __future__ import annotations

import re
import uuid

from starlette.requests import Request

_USABLE = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id_of(request: Request) -> str:
    """Return the id for the answer's X-Request-ID and for the server's log."""
    given = request.headers.get("x-request-id", "")
    return given if _USABLE.fullmatch(given) else uuid.uuid4().hex
