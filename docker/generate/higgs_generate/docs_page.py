"""GET /openapi.json, and GET /docs: the same for a person, without scripts or other hosts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from higgs_patches.lib.errors import ErrorResponse
from pydantic.fields import FieldInfo
from starlette.types import ASGIApp

from higgs_generate import page_files
from higgs_generate.endpoint import Call
from higgs_generate.generate_request import ALIASES, GenerateRequest
from higgs_generate.speech_routes import json_answer

SOUND = "Sound in the format of response_format."
ROUTES: tuple[tuple[str, str, str, str, str], ...] = (
    ("post", "/generate", "Speak a text of any length.", "GenerateRequest", SOUND),
    ("post", "/generate/batch", "Speak up to 32 texts.", "Batch", "JSON with base64."),
    ("post", "/generate/jobs", "Plan a long text; it is made while one listens.",
     "GenerateRequest", "The job."),
    ("get", "/generate/jobs/{id}", "Return the progress of a job.", "", "The job."),
    ("delete", "/generate/jobs/{id}", "Delete a job and its sound.", "", "Nothing (204)."),
    ("get", "/generate/jobs/{id}/audio",
     "Return the sound of a job (query: response_format, start in seconds).", "", SOUND),
    ("get", "/generate/jobs/{id}/events", "Follow a job.", "", "Server-sent events."),
    ("post", "/v1/audio/speech", "OpenAI's route; long texts are split (field long_text).",
     "Speech", SOUND),
    ("get", "/v1/audio/voices", "The server's list of voices.", "", "JSON."),
    ("get", "/v1/models", "The server's models.", "", "JSON."),
    ("get", "/voices", "List the voices, each with a sample.", "", "JSON."),
    ("get", "/voices/{name}/preview", "Return a sample of a voice.", "", "An mp3 file."),
    ("get", "/ping", "Tell whether the server is ready: 200, 204 while it loads, or 503.", "", ""),
    ("get", "/health", "Tell the state of service and server; always 200.", "", "JSON."),
    ("get", "/stats", "Count requests and sound.", "", "JSON."),
    ("get", "/metrics", "The same for Prometheus.", "", "Text."),
)  # fmt: skip
"""Method, path, meaning, body and answer of each route."""

ERRORS = {
    "400": "A field cannot be used; the answer names it.",
    "401": "The API key is missing or wrong.",
    "413": "The request is too large.",
    "429": "The queue is full; Retry-After says when to come back.",
    "502": "The server behind failed.",
    "503": "The server behind is starting, ending or unreachable; with Retry-After.",
    "504": "The server behind sent nothing for too long.",
}


def openapi() -> dict[str, Any]:
    """Return the description of all routes."""
    reference = "#/components/schemas/"
    request = GenerateRequest.model_json_schema(ref_template=reference + "{model}")
    definitions = request.pop("$defs", {})
    batch = {"type": "array", "maxItems": 32, "items": {"$ref": reference + "GenerateRequest"}}
    speech = {"type": "object", "required": ["model", "input", "voice"]}
    schemas = {
        **definitions, "GenerateRequest": request, "Batch": batch, "Speech": speech,
        "Error": ErrorResponse.model_json_schema(mode="serialization"),
    }  # fmt: skip
    paths: dict[str, dict[str, Any]] = {}
    for method, path, meaning, body, answer in ROUTES:
        operation: dict[str, Any] = {
            "summary": meaning,
            "responses": {"200": {"description": answer or "OK."}}
            | {
                code: {
                    "description": text,
                    "content": {"application/json": {"schema": {"$ref": reference + "Error"}}},
                }
                for code, text in ERRORS.items()
            },
        }
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        if names:
            operation["parameters"] = [
                {"name": x, "in": "path", "required": True, "schema": {"type": "string"}}
                for x in names
            ]
        if body:
            schema = {"schema": {"$ref": reference + body}}
            operation["requestBody"] = {"required": True, "content": {"application/json": schema}}
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Higgs Audio: POST /generate", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


async def schema(call: Call) -> ASGIApp:
    """Answer GET /openapi.json."""
    del call
    return json_answer(openapi())


def file() -> page_files.PageFile:
    """Return the page for GET /docs."""
    routes = _table(
        ("route", "meaning", "answer"),
        [(f"{method.upper()} {path}", text, answer) for method, path, text, _, answer in ROUTES],
    )
    aliases: dict[str, list[str]] = {}
    for alias, name in ALIASES.items():
        aliases.setdefault(name, []).append(alias)
    fields = [
        (name, ", ".join(aliases.get(name, ())), _default(field), field.description or "")
        for name, field in GenerateRequest.model_fields.items()
    ]  # fmt: skip
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>POST /generate</title>'
        '<meta name="viewport" content="width=device-width"><h1>POST /generate</h1>'
        '<p>As <a href="openapi.json">OpenAPI</a>. With an API key, send '
        "<code>Authorization: Bearer KEY</code>.</p>"
        f"<h2>Routes</h2>{routes}<h2>Fields of /generate</h2>"
        f"{_table(('field', 'also', 'default', 'meaning'), fields)}"
        f"<h2>Errors</h2>{_table(('status', 'meaning'), list(ERRORS.items()))}</html>"
    )
    return page_files.page_file(page.encode(), "text/html; charset=utf-8")


def _default(field: FieldInfo) -> str:
    return "" if field.is_required() or field.default in (None, "") else str(field.default)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...], kind: str) -> str:
        return "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{line(heads, 'th')}</tr>{body}</table>"
