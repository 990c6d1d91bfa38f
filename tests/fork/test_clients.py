"""What clients, browsers and probes rely on, on the real server with an API key."""

from __future__ import annotations

import base64
import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fork.test_speech import TEXT
from tests.support.attack import CHAT
from tests.support.fuzz import Server
from tests.support.hostile_audio import wav

pytestmark = pytest.mark.fork

SPEECH = "/v1/audio/speech"
KEY = "a-secret-key"
SECRET = "Zanzibar marmalade"
"""Part of every text here: it must not be in the log."""


@pytest.fixture(scope="module")
def running(start_server: Any) -> Iterator[Any]:
    with start_server(["--api-key", KEY], {"HIGGS_DEFAULT_RESPONSE_FORMAT": "wav"}) as started:
        yield started


@pytest.fixture(scope="module")
def server(running: Any) -> Server:
    return Server(running.url, KEY)


def raw(server: Server, method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """Return the whole answer to a request whose headers are sent as they are."""
    lines = [f"{method} {path} HTTP/1.1", *headers, "Connection: close"]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append("Host: x")
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    with socket.create_connection((server.host, server.port), 60) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
    return answer


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "higgs-audio-v2", "voice": "belinda", "input": SECRET + ".", **fields}


def encoded(**fields: Any) -> bytes:
    return json.dumps(body(**fields)).encode()


AUTHORIZED = f"Authorization: Bearer {KEY}"


@pytest.mark.needs(api_key=True)
@pytest.mark.parametrize("host", ["x?", "x#", "x/y?", "x/health?", "localhost/health#"])
@pytest.mark.parametrize("path", [SPEECH, "/v1/models", "/metrics"])
def test_the_host_header_does_not_replace_the_key(server: Server, host: str, path: str) -> None:
    method = "POST" if path == SPEECH else "GET"
    answer = raw(server, method, path, f"Host: {host}", body=encoded())
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:300]


OPEN = {"/", "/ping", "/health"}


@pytest.mark.needs(api_key=True)
def test_only_probes_need_no_key(server: Server) -> None:
    """Every route that the server documents, and those that it does not."""
    listed = json.loads(server.ask("GET", "/openapi.json")[1])["paths"]
    for path in {*listed, "/metrics", "/metrics/", "/docs", "/redoc", "/openapi.json", "/nowhere"}:
        answer = raw(server, "GET", path.replace("{model_id}", "x"))
        if path in OPEN:
            assert answer.startswith(b"HTTP/1.1 200 "), (path, answer[:300])
        else:
            assert answer.startswith(b"HTTP/1.1 401 "), (path, answer[:300])


@pytest.mark.needs(api_key=True, error_format=True)
def test_a_browser_can_read_every_error(server: Server) -> None:
    origin = "Origin: https://page.example"
    for headers, path, status in (
        ([], "/v1/models", 401),
        ([AUTHORIZED], "/nowhere", 404),
        ([AUTHORIZED], SPEECH, 405),
    ):
        answer = raw(server, "GET", path, origin, *headers)
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:300]
        assert b"access-control-allow-origin" in head.lower()
        error = json.loads(content[content.index(b"{") : content.rindex(b"}") + 1])["error"]
        assert error["code"] == status and set(error) == {"message", "type", "param", "code"}
        assert (b"www-authenticate: bearer" in head.lower()) is (status == 401)


@pytest.mark.needs(private_logs=True)
def test_the_log_has_no_texts_and_no_key(running: Any, server: Server) -> None:
    assert server.post(SPEECH, body(max_tokens=20))[0] == 200
    assert server.post(SPEECH, body(speed=9))[0] == 400
    chat = [{"role": "user", "content": SECRET}]
    assert server.post(CHAT, {"messages": chat, "max_tokens": 20})[0] == 200
    raw(server, "GET", f"/v1/models?api_key={KEY}&input={SECRET.replace(' ', '%20')}")
    said = running.log()
    assert "GET /v1/models?..." in said
    assert SECRET.partition(" ")[0] not in said
    assert SECRET not in said
    assert KEY not in said


@pytest.mark.needs(speech=True)
def test_speech_says_how_it_ended(running: Any, server: Server) -> None:
    for fields, reason in (({}, b"stop"), ({"max_tokens": 20}, b"length")):
        whole = raw(server, "POST", SPEECH, AUTHORIZED, body=encoded(stream=False, **fields))
        assert b"\r\nx-finish-reason: " + reason in whole.partition(b"\r\n\r\n")[0]
        streamed = raw(server, "POST", SPEECH, AUTHORIZED, body=encoded(**fields))
        assert streamed.endswith(b"\r\n0\r\nX-Finish-Reason: " + reason + b"\r\n\r\n")
        events = server.post(SPEECH, body(stream_format="sse", **fields))[1].split(b"\n\n")
        done = json.loads(events[-2].removeprefix(b"data: "))
        assert done["finish_reason"] == reason.decode()
    assert "ended by max_tokens or the context" in running.log()


@pytest.mark.needs(speech=True)
def test_the_longest_input_is_spoken_to_its_end(server: Server) -> None:
    """4,096 characters are what the server takes by default; its context has to hold them."""
    text = (TEXT + " ") * 80
    status, answer = server.post(SPEECH, body(input=text[:4096], stream_format="sse", seed=1))
    assert status == 200, answer[:500]
    done = json.loads(answer.split(b"\n\n")[-2].removeprefix(b"data: "))
    assert done["finish_reason"] == "stop"
    assert done["usage"]["output_tokens"] > 25 * 4096 / 15


@pytest.mark.needs(speech=True)
def test_a_text_that_cannot_be_spoken_to_its_end_is_refused_first(server: Server) -> None:
    status, answer = server.post(SPEECH, body(input="今" * 4096))
    error = json.loads(answer)["error"]
    assert (status, error["param"]) == (400, "input")
    assert "room for about" in error["message"]


@pytest.mark.parametrize("voice", ["default", "en_woman_1", "en_man_1", "zh_man_1", "hogwarts_v2"])
@pytest.mark.needs(voices=True)
def test_the_voices_of_the_forks_own_clients(server: Server, voice: str) -> None:
    status, answer = server.post(SPEECH, body(voice=voice, max_tokens=20))
    assert status == 200, answer
    assert answer.startswith(b"RIFF"), "the format that the variable names"


@pytest.mark.needs(speech=True, chat=True)
def test_a_recording_is_spoken_with_and_no_field_for_one_is_dropped(server: Server) -> None:
    own = base64.b64encode(wav(72_000)).decode()
    status, answer = server.post(
        SPEECH, body(voice=None, ref_audio=own, ref_text="My words.", max_tokens=20)
    )
    assert status == 200, answer
    for field, value in (("references", [{"audio": own}]), ("speaker_wav", own), ("ref_text", "x")):
        status, answer = server.post(SPEECH, body(**{field: value}))
        assert (status, json.loads(answer)["error"]["param"]) == (400, field)
    chat = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 20}
    status, answer = server.post(CHAT, {**chat, "voice": "chadwick"})
    assert (status, json.loads(answer)["error"]["param"]) == (400, "voice")


@pytest.mark.needs(chat=True)
def test_the_models_own_example_of_a_chat_brings_audio(server: Server) -> None:
    scene = (
        "Generate audio following instruction.\n\n"
        "<|scene_desc_start|>\nAudio is recorded from a quiet room.\n<|scene_desc_end|>"
    )
    messages = [{"role": "system", "content": scene}, {"role": "user", "content": "Hello there."}]
    for _ in range(3):
        status, answer = server.post(CHAT, {"messages": messages, "max_tokens": 60})
        assert status == 200
        assert json.loads(answer)["choices"][0]["message"]["audio"]["data"]


@pytest.mark.needs(chat=True)
def test_streamed_audio_has_its_id_once(server: Server) -> None:
    fields = {"messages": [{"role": "user", "content": TEXT}], "modalities": ["audio"]}
    _, answer = server.post(CHAT, {**fields, "stream": True, "max_tokens": 100})
    events = [json.loads(x[6:]) for x in answer.decode().split("\n\n") if x.startswith("data: {")]
    sounds = [x["choices"][0]["delta"].get("audio") for x in events if x["choices"]]
    sounds = [x for x in sounds if x]
    assert len(sounds) > 1
    assert [set(x) - {"data"} for x in sounds] == [
        {"id", "expires_at", "transcript"},
        *[set()] * (len(sounds) - 1),
    ]


@pytest.mark.needs(client_routes=True)
def test_routes_of_clients_and_probes(server: Server) -> None:
    model = server.model()
    assert json.loads(server.ask("GET", f"/v1/models/{model}")[1])["id"] == model
    assert server.ask("GET", "/v1/models/another")[0] == 404
    assert json.loads(server.ask("GET", "/v1/audio/models")[1])["models"][0]["id"] == model
    for path in ("/", "/health", "/ping", "/v1/models", f"/v1/models/{model}", "/metrics"):
        assert server.ask("HEAD", path)[0] == 200, path
        assert server.ask("GET", path)[0] == 200, path
    assert server.ask("GET", "/v1/models/")[0] == 200


@pytest.mark.needs(chat=True)
def test_a_stop_that_comes_at_once_is_no_failure(server: Server) -> None:
    fields = {"messages": [{"role": "user", "content": TEXT}], "modalities": ["audio"]}
    for stop in ("<|AUDIO_OUT|>", "<|audio_eos|>", "<|audio_out_bos|>"):
        status, answer = server.post(CHAT, {**fields, "stop": [stop]})
        assert status == 200, answer


@pytest.mark.needs(media=True, chat=True)
def test_odd_bodies_are_explained(running: Any, server: Server) -> None:
    def chat(*parts: dict[str, Any]) -> tuple[int, str]:
        status, answer = server.post(CHAT, {"messages": [{"role": "user", "content": [*parts]}]})
        return status, json.loads(answer)["error"]["message"]

    broken = {"data": base64.b64encode(b"RIFF" + bytes(100)).decode(), "format": "wav"}
    status, message = chat({"type": "input_audio", "input_audio": broken})
    assert status == 400 and "0x" not in message
    good = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav(24_000)).decode()}}
    assert chat(*[good] * 51)[0] == 400
    assert "never awaited" not in running.log()
    for odd, said in (
        (gzip.compress(encoded()), "UTF-8"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "digits"),
    ):
        status, answer = server.ask("POST", SPEECH, odd)
        assert status == 400
        assert said in json.loads(answer)["error"]["message"]
    for silent in ("\u2800", "\u3164", "\u0301"):
        assert server.post(SPEECH, body(input=silent))[0] == 400
