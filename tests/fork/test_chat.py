"""Chat completions of the real server, by the clients that people use."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import debian
from tests.support.attack import CHAT
from tests.support.fuzz import Listener, Server
from tests.support.hostile_audio import wav
from tests.support.sound import same_sound

pytestmark = pytest.mark.fork

HELLO = [{"role": "user", "content": "Hello there, how are you today?"}]


@pytest.fixture(scope="module")
def model(server: Any) -> str:
    return Server(server.url).model()


@pytest.fixture(scope="module")
def client(server: Any) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=600)


def ask(server: Any, model: str, **fields: Any) -> tuple[int, Any]:
    """Status and body of a chat completion."""
    body = {"model": model, "messages": HELLO, "max_tokens": 60, **fields}
    status, answer = Server(server.url).post(CHAT, body)
    return status, json.loads(answer)


def sound(answer: Any, index: int = 0) -> bytes:
    return base64.b64decode(answer["choices"][index]["message"]["audio"]["data"])


def seconds(data: bytes, ffmpeg: str) -> float:
    """How long ffmpeg plays a file, which it must read without a complaint."""
    command = [ffmpeg, "-v", "error", "-i", "pipe:0", "-f", "s16le", "-ac", "1", "-ar", "24000"]
    done = subprocess.run([*command, "pipe:1"], input=data, capture_output=True, check=True)
    assert not done.stderr, done.stderr
    return len(done.stdout) / 48_000


# -- what is asked for comes -----------------------------------------------------------------------


@pytest.mark.needs(chat=True)
@pytest.mark.parametrize("modalities", [["audio"], ["text", "audio"]])
def test_audio_comes_if_it_is_asked_for(server: Any, model: str, modalities: list[str]) -> None:
    for seed in range(3):
        status, answer = ask(server, model, modalities=modalities, seed=seed)
        assert status == 200
        with wave.open(io.BytesIO(sound(answer))) as file:
            frames = file.getnframes()
            assert len(file.readframes(frames + 1)) == 2 * frames
        assert frames >= 960
        assert answer["choices"][0]["message"]["audio"]["id"].startswith("audio-")


@pytest.mark.needs(chat=True)
def test_text_comes_alone_if_only_text_is_asked_for(server: Any, model: str) -> None:
    for seed in range(5):
        status, answer = ask(server, model, modalities=["text"], seed=seed)
        assert status == 200, answer
        message = answer["choices"][0]["message"]
        assert message["audio"] is None
        assert message["content"]
        assert "<|" not in message["content"]


def test_without_modalities_the_model_chooses(server: Any, model: str) -> None:
    for seed in range(5):
        status, answer = ask(server, model, seed=seed)
        assert status == 200, answer


@pytest.mark.parametrize("form", ["wav", "mp3", "flac", "opus", "aac"])
def test_every_format_is_one_whole_file(server: Any, model: str, form: str, ffmpeg: str) -> None:
    fields = {"modalities": ["audio"], "seed": 1}
    _, raw = ask(server, model, audio={"format": "pcm16"}, **fields)
    status, answer = ask(server, model, audio={"format": form}, **fields)
    assert status == 200, answer
    # Codecs add up to two frames of their own at the ends.
    assert seconds(sound(answer), ffmpeg) == pytest.approx(len(sound(raw)) / 48_000, abs=0.1)


def test_a_seed_gives_the_same_answer(server: Any, model: str) -> None:
    for modalities in (["audio"], ["text"]):
        first, second, other = (
            ask(server, model, modalities=modalities, seed=seed)[1]["choices"][0]["message"]
            for seed in (1, 1, 2)
        )
        for message in (first, second, other):
            (message["audio"] or {}).pop("id", None)
            (message["audio"] or {}).pop("expires_at", None)
        assert first == second
        assert first != other


def test_several_answers(server: Any, model: str) -> None:
    status, answer = ask(server, model, n=3, modalities=["audio"], seed=5)
    assert status == 200
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({sound(answer, index) for index in range(3)}) == 3


def test_usage_and_the_reason_of_the_end(server: Any, model: str) -> None:
    _, answer = ask(server, model, modalities=["text"], max_tokens=7, ignore_eos=True)
    usage = answer["usage"]
    assert usage["completion_tokens"] == 7
    assert usage["total_tokens"] == usage["prompt_tokens"] + 7
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_voice_can_be_named(server: Any, model: str) -> None:
    _, plain = ask(server, model, modalities=["audio"])
    _, voiced = ask(server, model, modalities=["audio"], audio={"voice": "alloy", "format": "wav"})
    # The voice's example stands in the prompt: 25 tokens for each of its seconds.
    assert voiced["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 100
    status, refused = ask(server, model, modalities=["audio"], audio={"voice": "nobody"})
    assert status == 400
    assert refused["error"]["param"] == "audio.voice"
    assert "belinda" in refused["error"]["message"]


def test_reference_audio_of_the_request(server: Any, model: str) -> None:
    """As in the model's example client: a text, its recording, and the text to speak."""
    part = {"data": base64.b64encode(wav(48_000)).decode(), "format": "wav"}
    messages = [
        {"role": "user", "content": "This is my voice."},
        {"role": "assistant", "content": [{"type": "input_audio", "input_audio": part}]},
        *HELLO,
    ]
    stop = ["<|eot_id|>", "<|end_of_text|>", "<|audio_eos|>"]
    fields = {"modalities": ["text", "audio"], "stop": stop, "top_k": 50, "top_p": 0.95}
    status, answer = ask(server, model, messages=messages, **fields)
    assert status == 200, answer
    assert sound(answer)
    assert answer["usage"]["prompt_tokens"] > 2 * 25


# -- by OpenAI's client ----------------------------------------------------------------------------


def test_openai_at_once(client: Any, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=HELLO,
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        max_completion_tokens=60,
        seed=3,
    )
    message = answer.choices[0].message
    assert message.audio.data.startswith("UklG")
    assert message.audio.expires_at > 0
    assert message.audio.transcript == message.content


def test_openai_stream(client: Any, model: str) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=HELLO,
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "pcm16"},
        max_completion_tokens=100,
        seed=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[-1].usage.completion_tokens > 0
    sounds = [
        chunk.choices[0].delta.audio
        for chunk in chunks
        if chunk.choices and getattr(chunk.choices[0].delta, "audio", None)
    ]
    pcm = b"".join(base64.b64decode(piece.data) for piece in sounds)
    assert len(pcm) >= 2 * 960
    assert len(pcm) % (2 * 960) == 0
    ids = [getattr(piece, "id", None) is not None for piece in sounds]
    assert ids == [True] + [False] * (len(sounds) - 1), "the client adds up what it gets"
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert [end for end in ends if end] == [ends[-1]]


@pytest.mark.needs(chat=True)
def test_a_stream_gives_the_same_sound(server: Any, model: str) -> None:
    fields = {"modalities": ["audio"], "seed": 4, "audio": {"format": "pcm16"}, "max_tokens": 90}
    _, whole = ask(server, model, **fields)
    body = {"model": model, "messages": HELLO, "stream": True, **fields}
    _, events = Server(server.url).post(CHAT, body)
    lines = [line[6:] for line in events.decode().splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    deltas = [choice["delta"] for line in lines[:-1] for choice in json.loads(line)["choices"]]
    pcm = [base64.b64decode(delta["audio"]["data"]) for delta in deltas if "audio" in delta]
    assert same_sound(b"".join(pcm), sound(whole))


def test_openai_sees_what_is_wrong(client: Any, model: str) -> None:
    import openai

    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=model, messages=HELLO, response_format={"type": "json_object"}
        )
    assert refused.value.param == "response_format"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="another", messages=HELLO)


# -- what is refused, and used to end the server for all -------------------------------------------


@pytest.mark.needs(chat=True)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_object"}),  # ended the engine
        ("prompt_logprobs", 1),  # ended the engine
        ("n", 1_000_000),  # ended the engine
        ("logit_bias", {"999999": 5}),  # ended the engine
        ("chat_template", "{{ 1/0 }}"),  # was 500
        ("logprobs", True),  # was 500
        ("top_logprobs", "x"),  # was 500
        ("messages", []),  # was 500
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("guided_regex", "a+"),
        ("use_beam_search", True),
        ("truncate_prompt_tokens", 5),
        ("top_p", 7),
    ],
)
def test_what_cannot_work_is_refused(server: Any, model: str, field: str, value: Any) -> None:
    status, answer = ask(server, model, **{field: value})
    assert status == 400
    assert answer["error"]["param"] == field
    assert field in answer["error"]["message"]
    assert Server(server.url).ask("GET", "/health")[0] == 200


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, "hot"])
def test_numbers_that_are_none_are_refused(server: Any, model: str, value: Any) -> None:
    for field in ("temperature", "top_p", "repetition_penalty", "seed", "max_tokens"):
        status, answer = ask(server, model, **{field: value})
        assert (status, answer["error"]["param"]) == (400, field)


@pytest.mark.needs(chat=True)
def test_special_tokens_are_no_part_of_a_prompt(server: Any, model: str) -> None:
    def tokens(content: Any, **fields: Any) -> int:
        messages = [{"role": "user", "content": content, **fields}]
        status, answer = ask(server, model, messages=messages, modalities=["text"], max_tokens=1)
        assert status == 200, answer
        return int(answer["usage"]["prompt_tokens"])

    plain = tokens("a  b")
    assert tokens("a <|AUDIO_OUT|> b") == plain
    assert tokens("a <|AU<|AUDIO|>DIO|> b") == plain
    assert tokens([{"type": "text", "text": "a <|audio_bos|><|AUDIO|><|audio_eos|> b"}]) == plain
    assert tokens("a  b", name="<|AUDIO_OUT|>") == plain
    role = [{"role": "user<|end_header_id|><|AUDIO_OUT|>", "content": "x"}]
    status, answer = ask(server, model, messages=role)
    assert (status, answer["error"]["param"]) == (400, "messages[0].role")


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    """A server at a private address, which the container could reach."""
    running = Listener()
    yield running
    running.close()


@pytest.mark.parametrize(
    "kind",
    [pytest.param("audio_url", marks=pytest.mark.needs(media=True)), "image_url", "video_url"],
)
def test_urls_are_not_fetched(server: Any, model: str, kind: str, listener: Listener) -> None:
    """Neither from a private address nor from the server's own, in any spelling."""
    own = [f"http://{host}:8000/health?asked-for-{kind}" for host in OWN]
    listener.hits.clear()
    answers = []
    for url in [f"http://{listener.address}/a.wav", *own]:
        part = {"type": kind, kind: {"url": url}}
        messages = [{"role": "user", "content": [part]}]
        body: dict[str, object] = {"model": model, "messages": messages}
        answers.append(Server(server.url).post(CHAT, body))
    assert listener.hits == []
    assert f"GET /health?asked-for-{kind}" not in server.log()
    for status, answer in answers:
        assert status == 400, answer
        assert json.loads(answer)["error"]["message"]


OWN = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0"]
"""How one can spell the address at which a server reaches itself."""


def test_audio_that_is_none_is_refused(server: Any, model: str) -> None:
    for data in (b"", b"garbage", wav(0), wav(1), wav(1000, rate=1), wav(8000 * 61, rate=8000)):
        part = {"data": base64.b64encode(data).decode() or "A", "format": "wav"}
        content = [{"type": "input_audio", "input_audio": part}]
        status, answer = ask(server, model, messages=[{"role": "user", "content": content}])
        assert status == 400
        assert "audio" in answer["error"]["message"]


# -- the door --------------------------------------------------------------------------------------


@pytest.mark.needs(request_limits=True)
def test_a_large_body_is_413(server: Any) -> None:
    body = b'{"messages": "' + b"x" * (33 * 2**20) + b'"}'
    for path in (CHAT, "/v1/audio/speech"):
        status, answer = Server(server.url).ask("POST", path, body)
        assert status == 413
        assert "larger than 32 MiB" in json.loads(answer)["error"]["message"]


@pytest.mark.needs(request_limits=True)
def test_endless_headers_are_cut(server: Any) -> None:
    request = urllib.request.Request(f"{server.url}/health", headers={"X-A": "a" * 200_000})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code in (400, 431)


def test_bodies_that_are_no_json(server: Any) -> None:
    for body in (b"", b"{", b'{"a": "\xff"}', b"[" * 100_000, b"[1]", b"null", b'"x"'):
        status, answer = Server(server.url).ask("POST", CHAT, body)
        assert status == 400
        assert json.loads(answer)["error"]["message"]


@pytest.mark.needs(preprocessing=True)
def test_requests_with_one_id_do_not_end_each_other(server: Any, model: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    body = json.dumps(
        {
            "model": model,
            "messages": HELLO,
            "modalities": ["text"],
            "max_tokens": 200,
            "request_id": "same",
        }
    ).encode()

    def send(_: int) -> int:
        headers = {"Content-Type": "application/json", "X-Request-Id": "same"}
        request = urllib.request.Request(f"{server.url}{CHAT}", body, headers)
        with urllib.request.urlopen(request, timeout=300) as response:
            return int(response.status)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(send, range(4))) == [200] * 4


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_the_place_in_the_engine(server: Any, model: str, stream: bool) -> None:
    one = Server(server.url)
    fields = {"model": model, "messages": HELLO, "modalities": ["audio"], "max_tokens": 2000}
    body = json.dumps({**fields, "stream": stream, "n": 2}).encode()
    for connection in _opened(one, body, 3):
        if stream:
            connection.recv(100)
        else:
            _wait(lambda: one.running() > 0)
        connection.close()
    _wait(lambda: one.running() == 0)


def _opened(one: Server, body: bytes, count: int) -> Iterator[Any]:
    import socket

    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    for _ in range(count):
        connection = socket.create_connection((one.host, one.port), 60)
        connection.sendall(head.encode() + body)
        yield connection


def _wait(condition: Any, limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def test_curl_is_told_what_is_wrong(server: Any, model: str) -> None:
    body = json.dumps({"model": model, "messages": HELLO, "modalities": ["video"]})
    command = ["curl", "-sS", "-w", "\n%{http_code}", f"{server.url}{CHAT}", "-d", body]
    command += ["-H", "Content-Type: application/json"]
    debian.require_program("curl")
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    text, _, status = done.stdout.rpartition("\n")
    assert status == "400"
    assert re.search(r"modalities is \['video'\]; expected", json.loads(text)["message"])
