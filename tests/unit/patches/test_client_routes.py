"""Routes that clients and probes call."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from higgs_patches.patches.client_routes import with_client_routes
from higgs_patches.patches.error_format import with_errors
from pydantic import BaseModel

from tests.unit.patches.test_api_key import ask


class Listed(BaseModel):
    object: str = "list"
    data: list[dict[str, Any]] = [{"id": "m", "object": "model"}, {"id": "org/n"}]


class Models:
    async def show_available_models(self) -> Listed:
        return Listed()


async def health() -> str:
    return "fine"


def application(root_path: str = "") -> FastAPI:
    def build_app(_: Any) -> FastAPI:
        app = FastAPI(root_path=root_path)
        app.add_api_route("/health", health)
        app.add_api_route("/v1/audio/speech", health, methods=["POST"])
        return app

    app: FastAPI = with_client_routes(with_errors(build_app))(None)
    app.state.openai_serving_models = Models()
    return app


def test_one_model() -> None:
    assert ask(application(), "/v1/models/m")[2] == {"id": "m", "object": "model"}
    assert ask(application(), "/v1/models/org/n")[2] == {"id": "org/n"}
    status, _, body = ask(application(), "/v1/models/other")
    assert (status, body["error"]["param"]) == (404, "model")


def test_models_for_speech() -> None:
    body = ask(application(), "/v1/audio/models")[2]
    assert [model["id"] for model in body["models"]] == ["m", "org/n"]


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models/m"])
@pytest.mark.parametrize("root_path", ["", "/api"])
def test_probes_may_use_head(path: str, root_path: str) -> None:
    app = application(root_path)
    assert ask(app, root_path + path, method="HEAD")[0] == 200
    assert ask(app, root_path + path)[0] == 200


def test_a_trailing_slash_is_no_redirect() -> None:
    assert ask(application(), "/health/")[0] == 200
    assert ask(application(), "/v1/audio/speech/", method="POST")[0] == 200
    status, headers, body = ask(application(), "/v1/audio/speech/")
    assert (status, headers["allow"], body["error"]["code"]) == (405, "POST", 405)
    assert ask(application(), "/nowhere/")[0] == 404
