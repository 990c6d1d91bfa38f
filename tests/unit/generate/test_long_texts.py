"""Long texts: split, made a few at once, joined, streamed in order, and resumed by id."""

from __future__ import annotations

import base64
import json
import tracemalloc
import wave
from io import BytesIO
from typing import Any

import pytest
from higgs_generate.seams import joined

from tests.support.generate_service import GenerateRun
from tests.support.speech_server import pcm_of
from tests.unit.generate.conftest import MakeRun

SENTENCE = "This is a sentence of a long text that somebody wants to hear. "
LONG = SENTENCE * 20


def expected_sound(run: GenerateRun) -> bytes:
    """Return the sound of the texts that reached the server, in the order of the long text."""
    requests = [x for x in run.server.requests if "/audio/" in x["path"]]
    texts = [x["input"] for x in sorted(requests, key=lambda x: place(x["headers"]))]
    return joined([pcm_of(text, run.server.behaviour) for text in texts])


def place(headers: dict[str, str]) -> int:
    return int(headers["x-request-id"].rpartition("-")[2])


def test_sound_is_that_of_the_pieces_sample_by_sample(run: GenerateRun) -> None:
    answer = run.generate(text=LONG, response_format="pcm")
    assert answer.body == expected_sound(run)
    assert int(answer.headers["x-chunks"]) == len(run.server.requests) > 3
    spoken = " ".join(x["input"] for x in run.server.requests)
    assert sorted(spoken.split()) == sorted(LONG.split()), "no word is lost"


def test_short_text_is_not_split_and_a_field_decides(run: GenerateRun) -> None:
    assert run.generate(text=SENTENCE).headers["x-chunks"] == "1"
    assert "x-job-id" not in run.generate(text=LONG, long_text=False).headers
    answer = run.generate(text=SENTENCE * 4, long_text=True)
    assert answer.headers["x-job-id"] and int(answer.headers["x-chunks"]) > 1


def test_set_length(make_run: MakeRun) -> None:
    run = make_run(HIGGS_GENERATE_LONG_SECONDS="3", HIGGS_GENERATE_PIECE_SECONDS="5")
    assert int(run.generate(text=SENTENCE * 3).headers["x-chunks"]) == 3


def test_a_few_pieces_are_made_at_once(make_run: MakeRun) -> None:
    run = make_run(HIGGS_GENERATE_PARALLEL="2")
    run.behave(first=0.05)
    run.generate(text=LONG)
    assert run.server.most_running == 2


def test_full_server_gets_one_piece_at_a_time(make_run: MakeRun) -> None:
    run = make_run(HIGGS_GENERATE_RUNNING="1")
    run.behave(first=0.02)
    assert run.generate(text=LONG).status == 200
    assert run.server.most_running == 1


def test_first_sound_comes_before_the_rest_is_made(run: GenerateRun) -> None:
    run.behave(speed=2.0)
    connection, first = run.begin("/generate", {"text": LONG, "response_format": "pcm"})
    assert first and len(run.server.requests) <= 3
    connection.close()


def test_whole_long_file_has_its_length(run: GenerateRun) -> None:
    answer = run.generate(text=LONG, stream=False)
    with wave.open(BytesIO(answer.body)) as file:
        seconds = file.getnframes() / 24_000
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert float(answer.headers["x-audio-duration"]) == pytest.approx(seconds, abs=0.01)
    value = {"text": LONG, "stream": False}
    found = run.ask("POST", "/generate", value, {"Accept": "application/json"}).json
    assert base64.b64decode(found["audio_base64"])[44:] == answer.body[44:]


def test_long_text_in_another_format_and_speed(run: GenerateRun, ffmpeg_on_path: None) -> None:
    plain = run.generate(text=LONG, response_format="pcm")
    answer = run.generate(text=LONG, response_format="mp3")
    assert answer.headers["content-type"] == "audio/mpeg" and answer.body[0] == 0xFF
    fast = run.generate(text=LONG, response_format="pcm", speed=2.0)
    assert len(fast.body) == pytest.approx(len(plain.body) / 2, rel=0.05)


def test_speech_route_splits_too(run: GenerateRun, ffmpeg_on_path: None) -> None:
    body: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": LONG, "seed": 5,
                            "response_format": "pcm"}  # fmt: skip
    answer = run.ask("POST", "/v1/audio/speech", body)
    assert answer.body == expected_sound(run) and answer.headers["x-job-id"]
    assert {x["model"] for x in run.server.requests} == {"tts-1"}
    assert sorted(x["seed"] for x in run.server.requests) == list(
        range(5, 5 + len(run.server.requests))
    )
    for changed in ({"long_text": False}, {"input": "Short."}, {"stream_format": "sse"}):
        assert "x-job-id" not in run.ask("POST", "/v1/audio/speech", body | changed).headers
    refused = run.ask(
        "POST", "/v1/audio/speech", body | {"stream_format": "sse", "long_text": True}
    )
    assert (refused.status, refused.json["param"]) == (400, "stream_format")
    bad = run.ask("POST", "/v1/audio/speech", body | {"temperature": 9})
    assert (bad.status, bad.json["param"]) == (400, "temperature")


def test_speech_route_passes_short_texts_on(run: GenerateRun) -> None:
    body = {"model": "m", "voice": "alloy", "input": "Short.", "custom": [1]}
    answer = run.ask("POST", "/v1/audio/speech", body)
    assert body.items() <= run.last.items() and answer.headers["content-type"] == "audio/pcm"
    run.behave(status=400, error="voice is unknown", param="voice")
    refused = run.ask("POST", "/v1/audio/speech", body)
    assert (refused.status, refused.json["param"]) == (400, "voice")


# --- the voice


def test_described_voice_is_carried_on(run: GenerateRun) -> None:
    """The first piece goes before each other one: a description gives another voice each time."""
    run.generate(text=LONG, system_prompt="A deep voice.")
    first, *others = sorted(run.server.requests, key=lambda x: place(x["headers"]))
    assert [x["role"] for x in first["messages"]] == ["system", "user"]
    said = first["messages"][-1]["content"]
    sound = pcm_of(said, run.server.behaviour)
    for other in others:
        _, text, audio, _ = other["messages"]
        assert text["content"] == said
        data = audio["content"][0]["audio_url"]["url"].partition(",")[2]
        assert base64.b64decode(data)[44:] == sound
    run.server.requests.clear()
    run.generate(text=LONG, voice="narrator")
    assert sum(x["path"].endswith("completions") for x in run.server.requests) > 2


def test_previous_piece_goes_before_the_next(run: GenerateRun) -> None:
    run.generate(text=LONG, context="previous")
    requests = sorted(run.server.requests, key=lambda x: place(x["headers"]))
    texts = [x.get("input") or x["messages"][-1]["content"] for x in requests]
    for number, request in enumerate(requests[1:], start=1):
        assert request["messages"][-3]["content"] == texts[number - 1]
        assert request["audio"]["voice"] == "default"


def test_no_context(run: GenerateRun) -> None:
    run.generate(text=LONG, system_prompt="A deep voice.", context="none")
    assert all(len(x["messages"]) == 2 for x in run.server.requests)


# --- failures


def test_failed_piece_is_made_again(run: GenerateRun) -> None:
    run.behave(status=500, failing=2)
    answer = run.generate(text=LONG, response_format="pcm", stream=False)
    assert answer.status == 200 and len(answer.body) > 1_000_000


def test_error_before_the_first_sound_is_an_answer(run: GenerateRun) -> None:
    run.behave(status=400, error="voice 'x' is unknown", param="voice")
    answer = run.generate(text=LONG, voice="belinda")
    assert (answer.status, answer.json["param"]) == (400, "voice")


def test_interrupted_job_goes_on_by_its_id(run: GenerateRun) -> None:
    run.behave(speed=20.0)
    connection, _ = run.begin("/generate", {"text": LONG, "response_format": "pcm"})
    answer = connection.answer
    id = answer.getheader("X-Job-ID")
    run.wait_until(lambda: run.ask("GET", f"/generate/jobs/{id}").json["pieces_done"] >= 2)
    answer.close()
    connection.close()
    run.wait_until(lambda: run.server.running == 0)
    state = run.ask("GET", f"/generate/jobs/{id}").json
    assert state["state"] == "interrupted" and 2 <= state["pieces_done"] < state["pieces"]
    before = len(run.server.requests)
    run.behave(speed=0.0)
    whole = run.ask("GET", f"/generate/jobs/{id}/audio?response_format=pcm")
    assert len(run.server.requests) - before == state["pieces"] - state["pieces_done"]
    assert run.ask("GET", f"/generate/jobs/{id}").json["state"] == "done"
    rest = run.ask("GET", f"/generate/jobs/{id}/audio?response_format=pcm&start=30.5")
    assert rest.body == whole.body[round(30.5 * 24_000) * 2 :]
    assert run.ask("DELETE", f"/generate/jobs/{id}").status == 204
    assert run.ask("GET", f"/generate/jobs/{id}").status == 404


def test_job_outlives_the_service(make_run: MakeRun, tmp_path: Any) -> None:
    folder = str(tmp_path / "kept")
    first = make_run(HIGGS_GENERATE_JOBS_DIR=folder)
    id = first.ask("POST", "/generate/jobs", {"text": LONG, "seed": 3}).json["id"]
    sound = first.ask("GET", f"/generate/jobs/{id}/audio?response_format=pcm").body
    first.close()
    second = make_run(HIGGS_GENERATE_JOBS_DIR=folder)
    assert second.ask("GET", f"/generate/jobs/{id}").json["state"] == "done"
    assert second.ask("GET", f"/generate/jobs/{id}/audio?response_format=pcm").body == sound
    assert second.server.requests == []


def test_progress(run: GenerateRun) -> None:
    made = run.ask("POST", "/generate/jobs", {"text": LONG})
    assert made.status == 202 and made.json["state"] == "waiting"
    id, pieces = made.json["id"], made.json["pieces"]
    assert run.server.requests == [], "nothing is made before somebody listens"
    answer = run.ask("GET", f"/generate/jobs/{id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [part.split("\n", 1) for part in answer.body.decode().strip().split("\n\n")]
    values = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert [name for name, _ in events][-1] == "event: done"
    assert sorted(x["piece"] for x in values if "piece" in x) == list(range(pieces))
    assert values[-1]["pieces_done"] == pieces
    assert values[-1]["characters_done"] == values[-1]["characters"]
    run.behave(status=400, error="no such voice")
    id = run.ask("POST", "/generate/jobs", {"text": LONG}).json["id"]
    failed = run.ask("GET", f"/generate/jobs/{id}/events").body.decode()
    assert "event: failed" in failed and "no such voice" in failed


@pytest.mark.parametrize("query", ["start=-1", "start=x", "start=inf", "response_format=exe"])
def test_sound_of_a_job_with_bad_values(run: GenerateRun, query: str) -> None:
    id = run.ask("POST", "/generate/jobs", {"text": LONG}).json["id"]
    answer = run.ask("GET", f"/generate/jobs/{id}/audio?{query}")
    assert (answer.status, answer.json["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize("form", ["pcm", "wav"])
def test_start_after_the_end_of_a_job(run: GenerateRun, form: str) -> None:
    id = run.ask("POST", "/generate/jobs", {"text": "One sentence only."}).json["id"]
    answer = run.ask("GET", f"/generate/jobs/{id}/audio?start=9999&response_format={form}")
    assert (answer.status, answer.json["param"]) == (400, "start")
    assert "start is 9999; the recording ends before" in answer.json["error"]["message"]


def test_jobs_take_a_bounded_part_of_the_disk(make_run: MakeRun) -> None:
    run = make_run(HIGGS_GENERATE_JOBS_MB="5")
    ids = [run.generate(text=LONG).headers["x-job-id"] for _ in range(3)]
    states = [run.ask("GET", f"/generate/jobs/{id}").status for id in ids]
    assert states[0] == 404 and states[-1] == 200
    with pytest.raises(Exception, match=r"IncompleteRead|RemoteDisconnected"):
        run.generate(text=LONG * 3)  # larger than all of it


def test_100000_characters_take_flat_memory(run: GenerateRun) -> None:
    run.behave(per_character=0.005, silence=0.01)
    text = SENTENCE * (100_000 // len(SENTENCE))
    tracemalloc.start()
    try:
        connection, _ = run.begin("/generate", {"text": text, "response_format": "pcm"})
        answer = connection.answer
        size = 0
        while chunk := answer.read1(1 << 16):
            size += len(chunk)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    connection.close()
    assert size > 20_000_000
    assert most < size / 4, "the sound is on disk, not in memory"
