"""An engine that hangs is told from one that is idle, and from one that works."""

from __future__ import annotations

import asyncio
import json
import types
from typing import Any

import pytest
from higgs_patches.patches import engine_silence
from starlette.responses import Response


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Processor:
    """As vLLM's: knows the running requests."""

    def __init__(self) -> None:
        self.request_states: dict[str, object] = {}

    @engine_silence.noting_begin
    def add_request(self, name: str) -> None:
        self.request_states[name] = object()

    @engine_silence.noting_output
    def process_outputs(self, engine_core_outputs: list[str]) -> None:
        for name in engine_core_outputs:
            self.request_states.pop(name, None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(engine_silence, "time", found)
    return found


def health(processor: Processor) -> tuple[int, Any]:
    @engine_silence.unless_silent
    async def answer(raw_request: Any) -> Response:
        return Response(status_code=200)

    engine = types.SimpleNamespace(output_processor=processor)
    app = types.SimpleNamespace(state=types.SimpleNamespace(engine_client=engine))
    found: Any = asyncio.run(answer(types.SimpleNamespace(app=app)))  # type: ignore[arg-type]
    return found.status_code, json.loads(found.body or b"null")


def test_silence_counts_while_requests_run(clock: Clock) -> None:
    processor = Processor()
    assert health(processor) == (200, None)
    clock.now += 1000  # idle
    processor.add_request("a")
    clock.now += 59
    assert health(processor)[0] == 200
    processor.add_request("b")  # does not begin anew
    clock.now += 2
    status, body = health(processor)
    assert status == 503
    assert body["message"] == "the engine has given nothing for 61 s although requests run"
    processor.process_outputs([])  # statistics alone are no output
    assert health(processor)[0] == 503
    processor.process_outputs(["a"])
    assert health(processor)[0] == 200
    clock.now += 61
    assert health(processor)[0] == 503
    processor.process_outputs(["b"])
    clock.now += 1000
    assert health(processor)[0] == 200


@pytest.mark.parametrize(("limit", "status"), [("5", 503), ("0", 200), ("70", 200)])
def test_the_time_is_a_setting(
    clock: Clock, limit: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGS_ENGINE_TIMEOUT_SECONDS", limit)
    processor = Processor()
    processor.add_request("a")
    clock.now += 61
    assert health(processor)[0] == status
