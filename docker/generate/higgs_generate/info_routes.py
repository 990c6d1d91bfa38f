"""What tells about the service: /health, /ping, /stats, /metrics, /voices, and routes passed on."""

from __future__ import annotations

import shutil
from typing import Any

from higgs_patches.lib.errors import RefusedError
from higgs_patches.patches.media import MAX_BYTES
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from higgs_generate import batch_route, failures
from higgs_generate.endpoint import Call
from higgs_generate.generate_request import FORMATS
from higgs_generate.service import Service
from higgs_generate.speech_routes import json_answer

UNENCODED = ("wav", "pcm")
"""Formats that take no ffmpeg."""


async def _server_status(service: Service) -> tuple[int, str]:
    """Return the status of the server's GET /ping (of /health, if it has no /ping) and the reason.

    The status is that of our image: 200 ready, 204 loading, and 503.
    """
    if service.draining:
        return 503, "the service is shutting down"
    try:
        status, body = await service.client.get("/ping")
        if status == 404:
            status, body = await service.client.get("/health")
    except RefusedError as error:
        return 503, str(error)
    if status in (200, 204):
        return status, "" if status == 200 else "the server is starting"
    return 503, str(failures.from_server(status, body, None))


async def ping(call: Call) -> ASGIApp:
    """Answer GET /ping as the server does."""
    status, reason = await _server_status(call.service)
    if status == 204:
        return Response(status_code=204)
    return json_answer({"status": "ready"} if status == 200 else {"reason": reason}, status)


async def health(call: Call) -> ASGIApp:
    """Answer GET /health: always 200, since the service itself lives."""
    service, settings = call.service, call.service.settings
    status, reason = await _server_status(service)
    encodes = shutil.which("ffmpeg") is not None
    model = None
    if status == 200:
        try:
            model = await service.client.model()
        except RefusedError as error:
            status, reason = 503, str(error)
    elif status == 204:
        reason = await _loading_reason(service) or reason
    return json_answer(
        {
            "status": "ok" if status == 200 else "degraded",
            "vllm_backend": settings.server,
            "vllm_healthy": status == 200,
            "model": model,
            "reason": reason,
            "api_key_required": bool(settings.api_key),
            "limits": {
                "max_characters": settings.max_characters,
                "max_batch": batch_route.MOST,
                "long_text_seconds": settings.long_seconds,
                "reference_bytes": MAX_BYTES,
                "formats": [x for x in FORMATS if x in UNENCODED or encodes],
            },
            "stats": service.statistics.as_json(),
        }
    )


async def _loading_reason(service: Service) -> str:
    """Return what a server that loads says on its other routes."""
    try:
        status, body = await service.client.get("/v1/models")
    except RefusedError as error:
        return str(error)
    return "" if status == 200 else str(failures.from_server(status, body, None))


async def stats(call: Call) -> ASGIApp:
    """Answer GET /stats."""
    return json_answer(call.service.statistics.as_json())


async def metrics(call: Call) -> ASGIApp:
    """Answer GET /metrics."""
    return Response(call.service.statistics.metrics(), media_type=CONTENT_TYPE_LATEST)


async def voices(call: Call) -> ASGIApp:
    """Answer GET /voices."""
    return json_answer(await call.service.voices.list())


async def preview(call: Call) -> ASGIApp:
    """Answer GET /voices/NAME/preview."""
    content = await call.service.voices.sample(str(call.request.path_params["name"]), call.id)
    headers = {"Cache-Control": "private, max-age=3600"}
    return Response(content, media_type="audio/mpeg", headers=headers)


async def passed_on(call: Call) -> ASGIApp:
    """Answer GET /v1/models and /v1/audio/voices as the server does."""
    status, body = await call.service.client.get(call.request.scope["path"])
    if status != 200:
        return failures.answer(failures.from_server(status, body, None, renamed=False))
    value: Any = body
    return JSONResponse(value)
