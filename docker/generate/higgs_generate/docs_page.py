"""GET /docs and /openapi.json."""

from __future__ import annotations

from starlette.types import ASGIApp

from higgs_generate import page_files
from higgs_generate.endpoint import Call
from higgs_generate.speech_routes import json_answer


def file() -> page_files.PageFile:
    """Return the page."""
    return page_files.page_file(b"<!doctype html><title>docs</title>", "text/html; charset=utf-8")


async def schema(call: Call) -> ASGIApp:
    """Answer GET /openapi.json."""
    del call
    return json_answer({})
