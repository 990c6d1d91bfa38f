"""/health, /stats, /metrics, /voices, and the description of all routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from higgs_generate import docs_page
from higgs_generate.generate_request import GenerateRequest
from starlette.routing import Route

from tests.support.generate_service import GenerateRun


def test_health(run: GenerateRun) -> None:
    found = run.ask("GET", "/health").json
    assert found["status"] == "ok" and found["vllm_healthy"] is True
    assert found["vllm_backend"] == f"http://127.0.0.1:{run.server_port}"
    assert found["model"] == "higgs-audio-v2" and found["stats"]["total_requests"] == 0
    assert run.ask("GET", "/ping").json == {"status": "ready"}


def test_health_names_the_formats_that_can_be_made(
    run: GenerateRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run.ask("GET", "/health").json["limits"]["formats"] == ["wav", "pcm"]
    (tmp_path / "ffmpeg").chmod(0o755)
    every = ["wav", "pcm", "mp3", "flac", "opus", "aac"]
    assert run.ask("GET", "/health").json["limits"]["formats"] == every


def test_stats_and_metrics(run: GenerateRun) -> None:
    run.generate()
    run.generate(text="")
    run.generate(stream=True)
    found = run.ask("GET", "/stats").json
    assert (found["successful_requests"], found["failed_requests"]) == (2, 1)
    assert found["concurrent_requests"] == found["running"] == found["waiting"] == 0
    assert found["audio_seconds"] > 1
    metrics = run.ask("GET", "/metrics").body.decode()
    assert 'higgs_generate_requests_total{outcome="succeeded"} 2.0' in metrics
    assert 'higgs_generate_requests_total{outcome="failed"} 1.0' in metrics
    assert "higgs_generate_first_byte_seconds_count 2.0" in metrics


def test_voices_have_samples(run: GenerateRun, ffmpeg_on_path: None) -> None:
    found = run.ask("GET", "/voices").json
    assert found["default"] == "en_woman"
    assert [x["id"] for x in found["voices"]] == [
        "en_woman",
        "belinda",
        "zh_man_sichuan",
        "narrator",
    ]
    path = "/" + found["voices"][1]["preview"]
    first, again = run.ask("GET", path), run.ask("GET", path)
    assert first.headers["content-type"] == "audio/mpeg" and first.body == again.body
    assert [x["voice"] for x in run.server.requests] == ["belinda"], "it is made once"
    assert run.ask("GET", "/voices/nobody/preview").status == 404


def test_description_has_every_route_and_field(run: GenerateRun) -> None:
    found = run.ask("GET", "/openapi.json").json
    inner: Any = run.app.requests
    while not hasattr(inner, "routes"):
        inner = getattr(inner, "_app", None) or inner.app
    served = {
        (method.lower(), route.path)
        for route in inner.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {(m, path) for path, value in found["paths"].items() for m in value}
    assert described == served - {("get", "/openapi.json")}
    fields = found["components"]["schemas"]["GenerateRequest"]["properties"]
    assert fields.keys() == GenerateRequest.model_fields.keys()
    page = docs_page.file().content.decode()
    assert all(name in page for name in fields) and "<script" not in page
