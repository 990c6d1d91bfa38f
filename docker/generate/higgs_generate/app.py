"""The service's ASGI application: its routes, and what stands before them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from higgs_patches.lib.errors import error_response
from higgs_patches.patches.api_key import RequireApiKey
from higgs_patches.patches.request_limits import WholeBody
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from higgs_generate import (
    batch_route,
    docs_page,
    info_routes,
    job_routes,
    page_files,
    speech_routes,
)
from higgs_generate.body_budget import BodyBudget
from higgs_generate.drain import DrainRequests
from higgs_generate.endpoint import Endpoint, Handler
from higgs_generate.hang_up import EndOnHangUp
from higgs_generate.origin_check import OriginCheck
from higgs_generate.service import Service


class GenerateApp:
    """The application.

    Args:
        service: the parts of the service.
        page: folder with the page's files.

    Attributes:
        requests: counts them, and waits for them at the end.
    """

    def __init__(self, service: Service, page: Path) -> None:
        self._files = page_files.read(page)
        self._files["/docs"] = docs_page.file()
        app: ASGIApp = _Direct(_routes(service))
        app = EndOnHangUp(app)
        app = WholeBody(app)
        app = BodyBudget(app)
        app = RequireApiKey(app, service.settings.api_key)
        app = OriginCheck(app, service.settings.origins)
        self.requests = DrainRequests(app, service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer (ASGI)."""
        if scope["type"] == "http" and (file := self._files.get(scope["path"])):
            await page_files.send_file(file, scope, receive, send)
        else:
            await self.requests(scope, receive, send)


def _routes(service: Service) -> Starlette:
    def route(path: str, handler: Handler, method: str = "GET", *, speaks: bool = False) -> Route:
        return Route(path, Endpoint(service, handler, speaks=speaks), methods=[method])

    routes = [
        route("/generate", speech_routes.generate, "POST", speaks=True),
        route("/v1/audio/speech", speech_routes.speech, "POST", speaks=True),
        route("/generate/batch", batch_route.batch, "POST", speaks=True),
        route("/generate/jobs", job_routes.create, "POST"),
        route("/generate/jobs/{id}", job_routes.show),
        route("/generate/jobs/{id}", job_routes.delete, "DELETE"),
        route("/generate/jobs/{id}/audio", job_routes.audio, speaks=True),
        route("/generate/jobs/{id}/events", job_routes.events),
        route("/voices", info_routes.voices),
        route("/voices/{name}/preview", info_routes.preview),
        route("/ping", info_routes.ping),
        route("/health", info_routes.health),
        route("/stats", info_routes.stats),
        route("/metrics", info_routes.metrics),
        route("/openapi.json", docs_page.schema),
        route("/v1/models", info_routes.passed_on),
        route("/v1/audio/voices", info_routes.passed_on),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        yield
        service.client.close()

    app = Starlette(routes=routes, exception_handlers={HTTPException: _refused}, lifespan=lifespan)
    app.router.redirect_slashes = False
    return app


class _Direct:
    """Finds routes by their whole path; the others are Starlette's.

    Starlette would try one route after the other, within two layers that a handler does not need.
    """

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._found = {
            (method, route.path): route.app
            for route in app.routes
            if isinstance(route, Route) and "{" not in route.path
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp | None = None
        if scope["type"] == "http":
            app = self._found.get((scope["method"], scope["path"]))
        await (app or self._app)(scope, receive, send)


async def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = f"{request.method} is not possible here" if status == 405 else "there is no such route"
    response = error_response(text, status)
    response.headers.update(getattr(error, "headers", None) or {})
    return response
