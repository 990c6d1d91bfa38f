"""Each field of POST /generate changes what reaches the server, or the answer."""

from __future__ import annotations

import base64
import io
import json
import wave
from typing import Any

import pytest

from tests.support.generate_service import GenerateRun

LONG = "This is a sentence of a long text that somebody wants to hear. " * 20
WAV = base64.b64encode(b"RIFF" + bytes(200)).decode()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"temperature": 0.5, "top_p": 0.95, "top_k": 50, "voice": "default"}),
        ({"temperature": 1.2}, {"temperature": 1.2}),
        ({"top_p": 0.8}, {"top_p": 0.8}),
        ({"top_k": 7}, {"top_k": 7}),
        ({"max_tokens": 300}, {"max_tokens": 300}),
        ({"max_new_tokens": 300}, {"max_tokens": 300}),
        ({"seed": 42}, {"seed": 42}),
        ({"voice": "belinda"}, {"voice": "belinda"}),
        ({"voice_id": "belinda"}, {"voice": "belinda"}),
        ({"reference_voice": "belinda"}, {"voice": "belinda"}),
        ({"ref_audio": "belinda"}, {"voice": "belinda"}),  # a name, as another server has it
        ({"scene": "a quiet room"}, {"instructions": "a quiet room"}),
        ({"scene_prompt": "a quiet room"}, {"instructions": "a quiet room"}),
        ({"ras_win_len": 9}, {"ras_win_len": 9}),
        ({"ras_win_max_num_repeat": 3}, {"ras_win_max_num_repeat": 3}),
        (
            {"reference_audio_base64": WAV, "reference_text": "Hi."},
            {"ref_audio": WAV, "ref_text": "Hi."},
        ),
        ({"ref_audio": WAV, "ref_text": "Hi."}, {"ref_audio": WAV, "ref_text": "Hi."}),
        ({"text": "Something else."}, {"input": "Something else."}),
        ({"temperature": None, "unknown": 1}, {"temperature": 0.5}),
    ],
)
def test_field_reaches_the_speech_route(
    run: GenerateRun, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert run.generate(**fields).status == 200
    assert run.last["path"] == "/v1/audio/speech"
    assert run.last["response_format"] == "pcm" and run.last["model"] == "higgs-audio-v2"
    assert expected.items() <= run.last.items()


def test_plain_text_sends_nothing_that_was_not_asked_for(run: GenerateRun) -> None:
    run.generate()
    assert {"seed", "max_tokens", "instructions", "ref_audio", "speed"}.isdisjoint(run.last)


def test_system_prompt_goes_to_the_chat_route(run: GenerateRun) -> None:
    answer = run.generate(system_prompt="A deep, calm voice.", seed=3, max_tokens=256)
    assert answer.headers["x-mode"] == "prompt"
    assert run.last["path"] == "/v1/chat/completions"
    assert run.last["messages"] == [
        {"role": "system", "content": "A deep, calm voice."},
        {"role": "user", "content": "Hello there."},
    ]
    assert run.last["modalities"] == ["audio"] and run.last["stream"] is True
    assert run.last["audio"] == {"format": "pcm16"}
    wanted = {"seed": 3, "temperature": 0.5, "top_p": 0.95, "top_k": 50}
    assert wanted.items() <= run.last.items()
    assert run.last["max_completion_tokens"] == 256


def test_system_prompt_and_scene_and_voice_go_together(run: GenerateRun) -> None:
    run.generate(system_prompt="Read it.", scene="rain", voice="belinda")
    system = run.last["messages"][0]["content"]
    assert system == "Read it.\n\n<|scene_desc_start|>\nrain\n<|scene_desc_end|>"
    assert run.last["audio"]["voice"] == "belinda"


def test_recording_without_its_words_goes_to_the_chat_route(run: GenerateRun) -> None:
    answer = run.generate(reference_audio_base64=WAV)
    assert answer.headers["x-mode"] == "clone"
    _, said, text = run.last["messages"]
    url = said["content"][0]["audio_url"]["url"]
    assert said["role"] == "assistant" and url == f"data:audio/any;base64,{WAV}"
    assert text == {"role": "user", "content": "Hello there."}
    assert "voice" not in run.last["audio"]


def test_recording_with_a_system_prompt_keeps_its_words(run: GenerateRun) -> None:
    run.generate(reference_audio_base64=WAV, reference_text="Hi.", system_prompt="Read it.")
    assert [x["role"] for x in run.last["messages"]] == ["system", "user", "assistant", "user"]
    assert run.last["messages"][1]["content"] == "Hi."


def test_default_answer_is_one_wav_file_with_headers(run: GenerateRun) -> None:
    answer = run.generate()
    with wave.open(io.BytesIO(answer.body)) as file:
        assert file.getframerate() == 24_000 and file.getnchannels() == 1
        seconds = file.getnframes() / 24_000
    assert answer.headers["content-type"] == "audio/wav"
    assert float(answer.headers["x-audio-duration"]) == pytest.approx(seconds, abs=0.001)
    assert float(answer.headers["x-generation-time"]) > 0
    assert float(answer.headers["x-rtf"]) > 0
    assert answer.headers["x-concurrent-requests"] == "1"
    assert answer.headers["x-mode"] == "voice" and answer.headers["x-chunks"] == "1"
    assert answer.headers["x-sample-rate"] == "24000"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert answer.headers["x-request-id"] == run.last["headers"]["x-request-id"]


def test_request_id_of_the_client_is_kept(run: GenerateRun) -> None:
    answer = run.ask("POST", "/generate", {"text": "a b"}, {"X-Request-ID": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    bad = run.ask("POST", "/generate", {"text": "a b"}, {"X-Request-ID": "a b\tc"})
    assert bad.headers["x-request-id"] != "a b\tc"


def test_json_holds_the_file_in_base64(run: GenerateRun) -> None:
    value = {"text": "Hello there."}
    plain = run.ask("POST", "/generate", value)
    answer = run.ask("POST", "/generate", value, {"Accept": "application/json"})
    assert answer.headers["content-type"] == "application/json"
    found = answer.json
    assert base64.b64decode(found["audio_base64"]) == plain.body
    assert found["sample_rate"] == found["sampling_rate"] == 24_000
    assert found["duration"] == float(plain.headers["x-audio-duration"])
    assert found["response_format"] == "wav" and found["mode"] == "voice"


@pytest.mark.parametrize(
    ("form", "media_type", "magic"),
    [("pcm", "audio/pcm", b""), ("mp3", "audio/mpeg", b"\xff"), ("flac", "audio/flac", b"fLaC"),
     ("opus", "audio/ogg", b"OggS"), ("aac", "audio/aac", b"\xff"), ("wav", "audio/wav", b"RIFF")],
)  # fmt: skip
def test_whole_file_in_each_format(
    run: GenerateRun, ffmpeg_on_path: None, form: str, media_type: str, magic: bytes
) -> None:
    answer = run.generate(response_format=form)
    assert answer.headers["content-type"] == media_type
    assert answer.body.startswith(magic) and len(answer.body) > 1000


@pytest.mark.parametrize("form", ["mp3", "flac", "opus", "aac"])
def test_streamed_format_is_the_servers_own_file(run: GenerateRun, form: str) -> None:
    """Sound is passed on, not encoded again."""
    assert run.generate(response_format=form, stream=True, speed=1.5).status == 200
    assert run.last["response_format"] == form and run.last["speed"] == 1.5


def test_stream_is_sent_while_it_is_made(run: GenerateRun) -> None:
    run.behave(speed=1.0)
    value = {"text": "Hello there, you.", "stream": True, "response_format": "pcm"}
    connection, first = run.begin("/generate", value)
    assert first and run.server.running == 1, "the server has not finished"
    connection.close()


@pytest.mark.parametrize("text", ["Hello there, you.", LONG], ids=["short", "long"])
def test_stream_has_the_headers_that_are_known_at_its_first_sound(
    run: GenerateRun, text: str
) -> None:
    run.behave(first=0.05)
    answer = run.generate(text=text, stream=True, voice="belinda")
    assert answer.headers["x-mode"] == "voice" and answer.headers["x-concurrent-requests"] == "1"
    assert answer.headers["x-request-id"] and int(answer.headers["x-chunks"]) >= 1
    assert 0.05 <= float(answer.headers["x-generation-time"]) < 10
    assert not {"x-audio-duration", "x-rtf", "content-length"} & answer.headers.keys()


def test_speed_shortens_the_sound(run: GenerateRun, ffmpeg_on_path: None) -> None:
    slow = run.generate(response_format="pcm")
    fast = run.generate(response_format="pcm", speed=2.0)
    assert len(fast.body) == pytest.approx(len(slow.body) / 2, rel=0.1)
    chat = run.generate(response_format="pcm", speed=2.0, system_prompt="Calm.")
    assert len(chat.body) == pytest.approx(len(slow.body) / 2, rel=0.1)


def test_batch(run: GenerateRun) -> None:
    items = [{"text": "One two three."}, {"text": ""}, 3, {"text": "Four.", "voice": "belinda"}]
    found = run.ask("POST", "/generate/batch", items).json
    assert (found["total"], found["successful"], found["failed"]) == (4, 2, 2)
    assert [x["index"] for x in found["results"]] == [0, 1, 2, 3]
    good = base64.b64decode(found["results"][0]["audio_base64"])
    assert good.startswith(b"RIFF") and found["results"][0]["generation_time"] >= 0
    assert "text" in found["results"][1]["error"] and not found["results"][1]["success"]
    assert {x["voice"] for x in run.server.requests} == {"default", "belinda"}


def test_the_origins_two_calls_run_unchanged(run: GenerateRun) -> None:
    """POST /generate with every field that the origin had, and a batch of such requests."""
    fields = {
        "text": "Hello there.", "system_prompt": "Generate audio following instruction.",
        "reference_audio_base64": WAV, "reference_text": "Hi.", "temperature": 0.5,
        "top_p": 0.95, "top_k": 50, "max_tokens": 2048,
    }  # fmt: skip
    answer = run.ask("POST", "/generate", fields)
    assert answer.status == 200 and answer.headers["content-type"] == "audio/wav"
    assert {"x-generation-time", "x-concurrent-requests", "x-mode"} <= answer.headers.keys()
    with wave.open(io.BytesIO(answer.body)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
    sampling = {"temperature": 0.5, "top_p": 0.95, "top_k": 50, "max_completion_tokens": 2048}
    assert sampling.items() <= run.last.items()
    assert fields["system_prompt"] in run.last["messages"][0]["content"] and WAV in str(run.last)

    batch = run.ask("POST", "/generate/batch", [fields, {"text": ""}])
    assert batch.json.keys() == {"results", "total", "successful", "failed"}
    good, bad = batch.json["results"]
    assert {"index", "success", "audio_base64", "generation_time"} <= good.keys()
    assert {"index", "success", "error"} <= bad.keys()
    assert (good["index"], good["success"], bad["index"], bad["success"]) == (0, True, 1, False)
    assert base64.b64decode(good["audio_base64"]).startswith(b"RIFF")


def test_the_origins_benchmark_shape_runs(run: GenerateRun) -> None:
    """Many requests at once, each with the origin's fields."""
    fields = {
        "text": "Hello, this is a test.", "system_prompt": None, "temperature": 0.5,
        "top_p": 0.95, "top_k": 50, "max_tokens": 2048,
    }  # fmt: skip
    connections = [run.connect() for _ in range(20)]
    for connection in connections:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/generate", json.dumps(fields), headers)
    for connection in connections:
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read().startswith(b"RIFF")
        assert answer.getheader("X-Generation-Time") and answer.getheader("X-Concurrent-Requests")
        connection.close()
    stats = run.ask("GET", "/stats").json
    assert stats["total_requests"] == stats["successful_requests"] == 20
