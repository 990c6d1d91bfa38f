"""Routes that clients, probes and gateways of OpenAI's API call beside the ones of the fork.

GET /v1/models/{id}      one model (OpenAI's clients)
GET /v1/audio/models     models for speech (Open WebUI)
GET /                    200 for probes that cannot be given a path
HEAD                     on every route that has GET
a trailing slash         is ignored: a redirect would be built from the client's Host header
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from higgs_patches.lib.errors import error_response, shown

PATCH = {
    "title": "Answer the routes that OpenAI's clients, Open WebUI and probes call",
    "issues": [],
    "why": "GET /v1/models/{id} and /v1/audio/models are 404, and HEAD is 405 everywhere.",
    "obsolete_when": "the server has these routes.",
    "targets": [
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "build_app",
            "how": "wrap",
            "with": "with_client_routes",
            "sha256": "29634a709cdde23821df744d4a4e0eb4131f77883768c81a8091dfc80555dcec",
        },
    ],
}


def with_client_routes(original: Callable[..., Any]) -> Callable[..., Any]:
    """Add the routes to the application."""

    @functools.wraps(original)
    def build_app(args: Any) -> Any:
        app = original(args)
        app.router.redirect_slashes = False
        app.add_api_route("/", root, methods=["GET"], include_in_schema=False)
        app.add_api_route("/v1/models/{model_id:path}", get_model, methods=["GET"])
        app.add_api_route("/v1/audio/models", get_audio_models, methods=["GET"])
        app.user_middleware.append(Middleware(TolerantRouting))
        return app

    return build_app


class TolerantRouting:
    """ASGI middleware: `/v1/models/` is `/v1/models`, and HEAD finds the routes of GET."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as the routes expect it (ASGI)."""
        if scope["type"] == "http":
            path = scope["path"].rstrip("/")
            if path != scope.get("root_path", "") and not path.startswith("/metrics"):
                scope["path"] = path
            if scope["method"] == "HEAD":  # the server still has the original scope
                scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


async def root() -> Response:
    """Say that the server is there."""
    return JSONResponse({"object": "server", "models": "/v1/models", "docs": "/docs"})


async def get_model(model_id: str, request: Request) -> Response:
    """Return one model of /v1/models."""
    models = await _models(request)
    for model in models["data"]:
        if model["id"] == model_id:
            return JSONResponse(model)
    return error_response(f"the model {shown(model_id)} does not exist", 404, "model")


async def get_audio_models(request: Request) -> Response:
    """Return the models in Open WebUI's form for speech."""
    models = await _models(request)
    found = [{"id": model["id"], "name": model["id"]} for model in models["data"]]
    return JSONResponse({"models": found, **models})


async def _models(request: Request) -> dict[str, Any]:
    listed = await request.app.state.openai_serving_models.show_available_models()
    models: dict[str, Any] = listed.model_dump()
    return models
