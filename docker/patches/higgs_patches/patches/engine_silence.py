"""Report an engine that hangs: /health is 503 when requests run and nothing comes of them.

An engine that ends is noticed (`engine_process`). One that hangs, because its GPU has fallen off
the bus or a collective operation waits for ever, is not: requests wait, and /health is 200. So the
server's process notes when the engine last gave anything, and when it was given something to do.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from higgs_patches.lib.errors import error_response
from higgs_patches.patch_settings import ENGINE_TIMEOUT_SECONDS

PATCH = {
    "title": "Answer /health with 503 while the engine hangs",
    "issues": [],
    "why": (
        "AsyncLLM.check_health does nothing: a server whose engine hangs is healthy, and is "
        "neither restarted nor taken out of a load balancer."
    ),
    "obsolete_when": "check_health asks the engine, or compares the time of its last output.",
    "targets": [
        {
            "file": "vllm/v1/engine/output_processor.py",
            "name": "OutputProcessor.add_request",
            "how": "wrap",
            "with": "noting_begin",
            "sha256": "e93b742b8341d64c815121ef2780c3f505a83537a319679c11b1b52b2a5b3ddf",
        },
        {
            "file": "vllm/v1/engine/output_processor.py",
            "name": "OutputProcessor.process_outputs",
            "how": "wrap",
            "with": "noting_output",
            "sha256": "0354dd5c85ac8c0f6cf7f029f01c67d8e42583ef458564c76e8fa1c8a888ca56",
        },
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "health",
            "how": "wrap",
            "with": "unless_silent",
            "sha256": "97891d11d9e9b6b677a2259681dbd3848df6b8fc0c8d6f5ccfcd24e27e5700d0",
        },
    ],
}


def noting_begin(original: Callable[..., None]) -> Callable[..., None]:
    """Note when an idle engine is given something to do (method of OutputProcessor)."""

    @functools.wraps(original)
    def add_request(self: Any, *args: Any, **kwargs: Any) -> None:
        if not self.request_states:
            self.higgs_last_output = time.monotonic()
        original(self, *args, **kwargs)

    return add_request


def noting_output(original: Callable[..., Any]) -> Callable[..., Any]:
    """Note when the engine gives something (method of OutputProcessor)."""

    @functools.wraps(original)
    def process_outputs(self: Any, engine_core_outputs: Any, *args: Any, **kwargs: Any) -> Any:
        if len(engine_core_outputs):
            self.higgs_last_output = time.monotonic()
        return original(self, engine_core_outputs, *args, **kwargs)

    return process_outputs


def silent_seconds(processor: Any) -> float:
    """Return for how long running requests have got nothing; 0 while none runs."""
    if not processor.request_states:
        return 0.0
    return float(time.monotonic() - processor.higgs_last_output)


def unless_silent(
    original: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Answer 503 instead while the engine has been silent for too long."""
    limit = ENGINE_TIMEOUT_SECONDS.read()

    @functools.wraps(original)
    async def health(raw_request: Request) -> Response:
        silent = silent_seconds(raw_request.app.state.engine_client.output_processor)
        if limit and silent > limit:
            text = f"the engine has given nothing for {silent:.0f} s although requests run"
            return error_response(text, HTTPStatus.SERVICE_UNAVAILABLE)
        return await original(raw_request)

    return health
