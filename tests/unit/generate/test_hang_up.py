"""A client that hangs up ends the work behind within 100 ms, whatever it waits for."""

from __future__ import annotations

import gc
import http.client
import json
from typing import Any

import pytest
from higgs_generate import http_protocol
from higgs_generate.http_protocol import GenerateProtocol

from tests.support.generate_service import GenerateRun

SECONDS = 0.1
TEXT = "Hello there, this is a sentence that takes a while. "
LONG = TEXT * 40


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"text": TEXT}),
        ("/generate", {"text": TEXT, "stream": True}),
        ("/generate", {"text": TEXT, "system_prompt": "Calm."}),
        ("/generate", {"text": LONG}),
        ("/generate/batch", [{"text": TEXT}, {"text": TEXT}]),
        ("/v1/audio/speech", {"model": "m", "voice": "alloy", "input": TEXT}),
        ("/v1/audio/speech", {"model": "m", "voice": "alloy", "input": LONG}),
    ],
)
@pytest.mark.parametrize("first", [30.0, 0.0], ids=["before the sound", "within the sound"])
def test_work_ends(
    run: GenerateRun, ffmpeg_on_path: None, path: str, body: Any, first: float
) -> None:
    run.behave(speed=1.0, first=first)
    assert min(ends_after(run, path, body, heard=not first) for _ in range(3)) < SECONDS
    run.wait_until(lambda: run.service.places.taken == 0, 1)
    run.wait_until(lambda: run.service.statistics.concurrent == 0, 1)
    assert run.service.places.waiting == 0


def ends_after(run: GenerateRun, path: str, body: Any, *, heard: bool) -> float:
    """Return the seconds from the end of the connection to the end of the work at the server."""
    connection = run.connect()
    connection.request("POST", path, json.dumps(body))
    run.wait_until(lambda: run.server.running > 0)
    if heard and "stream" in str(body):
        answer = connection.getresponse()
        answer.read1(100)
        answer.close()
    connection.close()
    return run.wait_until(lambda: run.server.running == 0)


def test_work_of_encoding_ends(run: GenerateRun, ffmpeg_on_path: None) -> None:
    run.behave(speed=1.0)
    body = {"text": TEXT, "stream": True, "response_format": "mp3", "system_prompt": "Calm."}
    connection, _ = run.begin("/generate", body)
    connection.close()
    connection.answer.close()
    run.wait_until(lambda: run.server.running == 0, 2)


def test_one_of_several_listeners_does_not_end_a_job(run: GenerateRun) -> None:
    run.behave(speed=2.0)
    id = run.ask("POST", "/generate/jobs", {"text": LONG}).json["id"]
    audio, _ = run.begin(f"/generate/jobs/{id}/audio?response_format=pcm")
    events, _ = run.begin(f"/generate/jobs/{id}/events")
    audio.answer.close()
    audio.close()
    run.wait_until(lambda: run.service.jobs.get(id).listeners == 1)
    assert run.server.running > 0
    events.answer.close()
    events.close()
    run.wait_until(lambda: run.server.running == 0, 2)


def test_slow_reader_holds_the_server_back(run: GenerateRun) -> None:
    """Nothing is read ahead without a bound for a client that does not read."""
    run.behave(per_character=10.0)
    body = {"text": TEXT, "stream": True, "response_format": "pcm"}
    connection, _ = run.begin("/generate", body)
    assert run.server.running == 1
    run.wait_until(lambda: run.service.statistics.concurrent == 1)
    connection.answer.close()
    connection.close()
    run.wait_until(lambda: run.server.running == 0, 5)


def test_client_that_reads_nothing_is_cut_off(
    run: GenerateRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "STALLED_SECONDS", 0.3)
    run.behave(per_character=10.0)
    connection, _ = run.begin("/generate", {"text": TEXT, "stream": True, "response_format": "pcm"})
    run.wait_until(lambda: run.server.running == run.service.statistics.concurrent == 0, 20)
    assert run.service.statistics.failed == 1
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        connection.answer.read()
    connection.close()


def test_client_that_reads_late_is_not_cut_off(run: GenerateRun) -> None:
    def stalled() -> bool:
        connections = [x for x in gc.get_objects() if isinstance(x, GenerateProtocol)]
        return any(x._stalled for x in connections)

    run.behave(per_character=10.0)
    connection, _ = run.begin("/generate", {"text": TEXT, "stream": True, "response_format": "pcm"})
    run.wait_until(stalled)
    connection.answer.read()
    run.wait_until(lambda: run.service.statistics.concurrent == 0)
    assert run.service.statistics.succeeded == 1 and not stalled()
    connection.close()
