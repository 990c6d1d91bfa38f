"""Errors of POST /generate: each has its status, a message and, if one is to blame, the field."""

from __future__ import annotations

import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.generate_service import Answered, GenerateRun
from tests.unit.generate.conftest import MakeRun


def error_of(answer: Answered) -> tuple[int, str | None, str]:
    """Return status, field and message; the form is that of OpenAI's API."""
    found = answer.json
    assert isinstance(found, dict) and found["object"] == "error"
    assert found["error"]["message"] == found["message"] and found["code"] == answer.status
    return answer.status, found["param"], found["message"]


@pytest.mark.parametrize(
    ("fields", "param", "part"),
    [
        ({"text": ""}, "text", "empty"),
        ({"text": " \n\u200b"}, "text", "empty"),
        ({"text": 5}, "text", "expected a text"),
        ({"temperature": 1.6}, "temperature", "from 0.1 to 1.5"),
        ({"temperature": "hot"}, "temperature", "'hot'"),
        ({"temperature": True}, "temperature", "True"),
        ({"top_p": 0}, "top_p", "from 0.001 to 1"),
        ({"top_k": 101}, "top_k", "from 1 to 100"),
        ({"top_k": 2.5}, "top_k", "whole number"),
        ({"max_tokens": 255}, "max_tokens", "from 256 to 8192"),
        ({"max_new_tokens": 9000}, "max_tokens", "from 256 to 8192"),
        ({"seed": "x"}, "seed", "whole number"),
        ({"speed": 5}, "speed", "from 0.25 to 4"),
        ({"response_format": "ogg"}, "response_format", "one of wav"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"long_text": 1}, "long_text", "true or false"),
        ({"context": "all"}, "context", "auto, previous or none"),
        ({"language": "English!"}, "language", "language code"),
        ({"voice": 3}, "voice", "a text"),
        ({"system_prompt": "a" * 5000}, "system_prompt", "at most 4096"),
        ({"scene": "a" * 5000}, "scene", "at most 4096"),
        ({"reference_text": "Hi."}, "reference_text", "without the recording"),
        ({"voice": "a", "ref_audio": "A" * 200}, "reference_audio_base64", "two voices"),
        ({"voice": "a", "voice_url": "https://x/y"}, "voice_url", "two voices"),
        ({"ref_audio": "https://a/b.wav" + "c" * 99}, "reference_audio_base64", "voice_url"),
        ({"ref_audio": "https://a/b.wav"}, "reference_audio_base64", "send it as voice_url"),
        ({"scene": "a", "scene_prompt": "b"}, "scene_prompt", "another name for scene"),
        ({"voice_url": "https://example.com/a.wav"}, "voice_url", "HIGGS_ALLOWED_MEDIA_HOSTS"),
        ({"voice_url": "https://example.com/a.wav"}, "voice_url", "as reference_audio_base64"),
        ({"ras_win_len": 900}, "ras_win_len", "from 0 to 250"),
    ],
)
def test_field_that_cannot_be_used(
    run: GenerateRun, fields: dict[str, Any], param: str, part: str
) -> None:
    status, found, message = error_of(run.generate(**fields))
    assert (status, found) == (400, param) and part in message
    assert run.server.requests == [], "nothing reaches the server"


def test_missing_text(run: GenerateRun) -> None:
    assert error_of(run.ask("POST", "/generate", {}))[:2] == (400, "text")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"a"', b"\xff", b"null", b"[" * 5000])
def test_body_that_is_not_an_object(run: GenerateRun, body: bytes) -> None:
    assert error_of(run.ask("POST", "/generate", body))[0] == 400


@pytest.mark.parametrize(
    "path", ["/generate", "/generate/batch", "/generate/jobs", "/v1/audio/speech"]
)
def test_body_that_is_nested_deeply(run: GenerateRun, path: str) -> None:
    body = b'{"text": "a", "input": "a", "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    assert error_of(run.ask("POST", path, body))[0] == 400
    assert run.server.requests == [], "nothing reaches the server"


@pytest.mark.parametrize("url", ["http://127.0.0.1/a.wav", "http://169.254.169.254/", "file:///etc/passwd",
                                 "http://[::1]/", "http://localhost/"])  # fmt: skip
def test_recording_from_a_private_address(
    run: GenerateRun, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Also if its host is allowed: the address of the connection decides."""
    hosts = "127.0.0.1,169.254.169.254,::1,localhost"
    monkeypatch.setenv("HIGGS_ALLOWED_MEDIA_HOSTS", hosts)
    status, param, _ = error_of(run.generate(voice_url=url))
    assert (status, param) == (400, "voice_url")


def test_long_text_beyond_the_limit(make_run: MakeRun) -> None:
    run = make_run(HIGGS_GENERATE_MAX_CHARACTERS="100")
    status, param, message = error_of(run.generate(text="a " * 60))
    assert (status, param) == (400, "text") and "120 characters; at most 100" in message
    speech = {"model": "m", "voice": "alloy", "input": "a " * 60, "long_text": True}
    assert error_of(run.ask("POST", "/v1/audio/speech", speech))[:2] == (400, "input")


def test_key(make_run: MakeRun) -> None:
    run = make_run(HIGGS_API_KEY="secret-key", server_key="secret-key")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret-key"}):
        for path in ("/generate", "/generate/batch", "/generate/jobs", "/v1/audio/speech"):
            answer = run.ask("POST", path, {"text": "a b"}, headers)
            assert error_of(answer)[0] == 401 and answer.headers["www-authenticate"] == "Bearer"
        for path in ("/stats", "/metrics", "/voices", "/openapi.json", "/generate/jobs/x"):
            assert run.ask("GET", path, None, headers).status == 401
    for path in ("/", "/page/app.js", "/health", "/ping"):
        assert run.ask("GET", path).status == 200
    right = {"Authorization": "Bearer secret-key"}
    assert run.ask("POST", "/generate", {"text": "a b"}, right).status == 200
    assert run.ask("GET", "/health").json["api_key_required"] is True


def test_key_that_the_server_refuses(make_run: MakeRun) -> None:
    run = make_run(server_key="another-key")
    status, _, message = error_of(run.generate())
    assert status == 502 and "API key" in message


def test_body_that_is_too_large(run: GenerateRun) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", run.port)
    connection.putrequest("POST", "/generate")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413 and json.loads(answer.read())["code"] == 413
    connection.close()


def test_full_queue(make_run: MakeRun) -> None:
    run = make_run(HIGGS_GENERATE_RUNNING="1", HIGGS_GENERATE_QUEUE="1")
    run.behave(first=30)
    held = [run.connect() for _ in range(2)]
    for connection in held:
        connection.request("POST", "/generate", json.dumps({"text": "Hello."}))
    run.wait_until(lambda: (run.service.places.taken, run.service.places.waiting) == (1, 1))
    answer = run.generate()
    assert error_of(answer)[0] == 429 and 1 <= int(answer.headers["retry-after"]) <= 30
    batch = run.ask("POST", "/generate/batch", [{"text": "a"}])
    assert batch.status == 429
    held[1].close()  # one who waits leaves the queue at once
    assert run.wait_until(lambda: run.service.places.waiting == 0) < 0.5
    held[0].close()
    run.wait_until(lambda: run.service.places.taken == 0)
    run.behave(first=0)
    assert run.generate().status == 200


def test_requests_wait_in_order(make_run: MakeRun) -> None:
    run = make_run(HIGGS_GENERATE_RUNNING="1")
    run.behave(first=0.1)
    threads = []
    for number in range(4):
        thread = threading.Thread(target=run.generate, kwargs={"text": f"Number {number}."})
        thread.start()
        threads.append(thread)
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    texts = [x["input"] for x in run.server.requests]
    assert texts == [f"Number {number}." for number in range(4)] and run.server.most_running == 1


@pytest.mark.parametrize(
    ("status", "expected"), [(500, 502), (502, 502), (504, 504), (400, 400), (422, 400)]
)
@pytest.mark.parametrize("stream", [True, False])
def test_error_of_the_server(run: GenerateRun, status: int, expected: int, stream: bool) -> None:
    run.behave(status=status, error="it is bad", param="input")
    found, param, message = error_of(run.generate(stream=stream))
    assert found == expected and "it is bad" in message
    assert param == ("text" if expected == 400 else None), "by the name that the client knows"


@pytest.mark.parametrize("status", [429, 503])
def test_busy_server(run: GenerateRun, status: int) -> None:
    run.behave(status=status, error="the server is starting: loading", retry_after="7")
    answer = run.generate()
    assert error_of(answer)[0] == status and "loading" in answer.json["message"]
    assert answer.headers["retry-after"] == "7"


def test_server_that_is_not_there(make_run: MakeRun) -> None:
    run = make_run(HIGGS_GENERATE_SERVER="http://127.0.0.1:1")
    answer = run.generate()
    status, _, message = error_of(answer)
    assert status == 503 and "cannot be reached" in message and answer.headers["retry-after"]
    assert run.ask("GET", "/ping").status == 503
    health = run.ask("GET", "/health")
    assert health.status == 200 and health.json["status"] == "degraded"
    assert health.json["vllm_healthy"] is False and "cannot be reached" in health.json["reason"]


def test_server_that_is_silent(make_run: MakeRun) -> None:
    run = make_run(HIGGS_GENERATE_TIMEOUT="0.3")
    run.behave(first=30)
    status, _, message = error_of(run.generate())
    assert status == 504 and "0.3 s" in message
    run.wait_until(lambda: run.server.running == 0, 2)


def test_server_that_breaks_off_before_the_sound(run: GenerateRun) -> None:
    run.behave(break_after=0)
    assert error_of(run.generate(stream=True))[0] == 502


@pytest.mark.parametrize("prompt", [None, "Calm."])
def test_server_that_breaks_off_within_the_sound(run: GenerateRun, prompt: str | None) -> None:
    """A stream is cut, so that it cannot be taken for whole; a whole answer is an error."""
    run.behave(break_after=10_000, speed=5.0)
    text = "Hello there, this is a longer sentence."
    assert error_of(run.generate(text=text, system_prompt=prompt))[0] == 502
    with pytest.raises(http.client.IncompleteRead):
        run.generate(text=text, system_prompt=prompt, stream=True)


def test_loading_server(run: GenerateRun) -> None:
    run.behave(ping=204)
    assert run.ask("GET", "/ping").status == 204
    assert "loading the model" in run.ask("GET", "/health").json["reason"]


@pytest.mark.parametrize("value", [[], {}, "a", [{"text": "a"}] * 33, [{"text": "a" * 20_001}]])
def test_batch_that_cannot_be_used(run: GenerateRun, value: Any) -> None:
    assert error_of(run.ask("POST", "/generate/batch", value))[0] == 400


def test_unknown_routes_and_methods(run: GenerateRun) -> None:
    assert error_of(run.ask("GET", "/nothing"))[0] == 404
    answer = run.ask("GET", "/generate")
    assert error_of(answer)[0] == 405 and "POST" in answer.headers["allow"]
    assert error_of(run.ask("GET", "/generate/jobs/" + 32 * "0"))[:2] == (404, "id")


def test_missing_ffmpeg(run: GenerateRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert error_of(run.generate(response_format="mp3"))[:2] == (500, "response_format")
