"""HTTP answers given instead of the server's, in one form for every layer and state.

Errors have the object that OpenAI's clients read and the server's own errors have. A browser may
read them: they carry the CORS headers that the server would send, and preflight requests are
answered, because otherwise a page would see only "Failed to fetch" and not the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from higgs_runtime.state import Phase, ServerState

RETRY_SECONDS = 5
"""Value of Retry-After."""

REASONS = {
    200: "OK",
    204: "No Content",
    404: "Not Found",
    503: "Service Unavailable",
}


class HttpAnswer(NamedTuple):
    """An HTTP response, without the headers that the connection needs."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class CorsPolicy(NamedTuple):
    """Which pages may read answers.

    Methods and headers are not restricted: an answer from here reveals nothing and does nothing.

    Attributes:
        origins: allowed origins; "*" allows all.
        credentials: whether cookies and credentials are allowed.
    """

    origins: tuple[str, ...] = ("*",)
    credentials: bool = False

    def headers(self, request: Mapping[str, str]) -> dict[str, str]:
        """Return the headers for a request; its header names are in lower case."""
        every = "*" in self.origins
        origin = request.get("origin")
        if origin is None or not (every or origin in self.origins):
            return {"Vary": "Origin"}
        shared = every and not self.credentials
        found = {
            "Access-Control-Allow-Origin": "*" if shared else origin,
            "Access-Control-Expose-Headers": "Retry-After",
            "Vary": "Origin",
        }
        if self.credentials:
            found["Access-Control-Allow-Credentials"] = "true"
        return found


def cors_policy(arguments: Sequence[str]) -> CorsPolicy:
    """Return the policy set by the server's flags; the server reports invalid values itself."""
    origins: tuple[str, ...] = ("*",)
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == "--allowed-origins":
            text = value if equals else "".join(arguments[position + 1 : position + 2])
            try:
                origins = tuple(map(str, json.loads(text)))
            except (ValueError, TypeError):
                origins = ()
    flags = {argument.replace("_", "-") for argument in arguments}
    return CorsPolicy(origins, "--allow-credentials" in flags)


def answer(
    state: ServerState, method: str, path: str, request: Mapping[str, str], cors: CorsPolicy
) -> HttpAnswer:
    """Return the answer to a request that does not reach the server.

    Args:
        state: the state of the server.
        method: HTTP method.
        path: path of the request, decoded, without query.
        request: its headers, with names in lower case.
        cors: the policy for browsers.
    """
    headers = {"Cache-Control": "no-store", **cors.headers(request)}
    if method == "OPTIONS" and "access-control-request-method" in request:
        headers["Access-Control-Allow-Methods"] = request["access-control-request-method"]
        headers["Access-Control-Allow-Headers"] = request.get("access-control-request-headers", "*")
        return HttpAnswer(200, headers | {"Content-Type": "text/plain; charset=utf-8"}, b"OK")
    if path == "/ping" and state.phase is Phase.READY:
        if state.healthy():
            return _json(200, {"status": "ready"}, headers)
        return _error(503, "the server does not answer, or its GET /health is an error", headers)
    if path == "/ping" and state.phase is Phase.LOADING and method in ("GET", "HEAD"):
        return HttpAnswer(204, headers)
    if state.phase is Phase.READY:
        return _error(404, "this port answers GET /ping only", headers)
    message = "the server is shutting down"
    if state.phase is Phase.LOADING:
        message = f"the server is starting: {state.activity}"
    return _error(503, message, headers | {"Retry-After": str(RETRY_SECONDS)})


def _error(status: int, message: str, headers: dict[str, str]) -> HttpAnswer:
    kind = REASONS[status].replace(" ", "") + "Error"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return _json(status, {"object": "error", **error, "error": error}, headers)


def _json(status: int, value: object, headers: dict[str, str]) -> HttpAnswer:
    body = json.dumps(value, separators=(",", ":")).encode("utf-8", "replace")
    return HttpAnswer(status, headers | {"Content-Type": "application/json"}, body)
