"""The id of a request: the client's, if it can be used, or a new one."""

from __future__ import annotations

import os
import re

from starlette.types import Scope

_USABLE = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def request_id_of(scope: Scope) -> str:
    """Return the id for the answer's X-Request-ID and for the server's log."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _USABLE.fullmatch(value):
            return str(value, "ascii")
    return os.urandom(16).hex()
