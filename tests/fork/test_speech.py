"""Speech of the real server, by the clients that people use."""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import subprocess
import threading
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from higgs_image.smoke import audio
from tests.support import debian, hostile_audio
from tests.support.fuzz import Server
from tests.support.sound import same_sound

pytestmark = pytest.mark.fork

SPEECH = "/v1/audio/speech"
TEXT = "The train to the coast leaves at noon, so pack your bag."
LONG = " ".join([TEXT] * 12)

FREE_WITHIN = 2.0
"""Seconds after which the engine must have let go of a request whose client has left."""

MORE_MEMORY = 1.05
"""What 100 more requests may add to the server's memory: nothing, but for the allocator's moods."""

# In a container there are no ps and pkill. Prints how many ffmpegs there are, zombies too; with
# an argument it kills them.
FFMPEGS = """
import os, sys
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            if "(ffmpeg)" in stat.read():
                found.append(int(pid))
    except OSError:
        pass
for pid in found if len(sys.argv) > 1 else []:
    os.kill(pid, 9)
print(len(found))
"""


# MB that all processes have for themselves: what files they have mapped does not count.
MEMORY = """
import os
kilobytes = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/status") as status:
            kilobytes += sum(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
    except OSError:
        pass
print(kilobytes / 1000)
"""


def ffmpegs(server: Any, *kill: str) -> int:
    return int(server.container.output_of("python3", "-c", FFMPEGS, *kill))


@pytest.fixture(scope="module")
def model(server: Any) -> str:
    return Server(server.url).model()


@pytest.fixture(scope="module")
def voice(server: Any) -> str:
    return str(json.loads(Server(server.url).ask("GET", "/v1/audio/voices")[1])["voices"][0]["id"])


@pytest.fixture
def request_body(model: str, voice: str) -> dict[str, Any]:
    return {"model": model, "voice": voice, "input": TEXT, "response_format": "pcm"}


class Answer:
    """A speech answer that is read piece by piece."""

    def __init__(self, server: Any, body: dict[str, Any], api_key: str = "none") -> None:
        target = Server(server.url)
        self.connection = http.client.HTTPConnection(target.host, target.port, timeout=600)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}
        self.connection.request("POST", SPEECH, json.dumps(body), headers)
        self.response = self.connection.getresponse()
        self.type = self.response.headers["Content-Type"]
        self.length = self.response.headers["Content-Length"]

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self.connection.close()


def speak(server: Any, body: dict[str, Any], **fields: Any) -> bytes:
    """The file of a good request."""
    with Answer(server, body | fields) as answer:
        content = answer.response.read()
        assert answer.response.status == 200, content
        return content


def idle(server: Any) -> bool:
    """Wait until the engine has no request and no encoder runs."""
    until = time.monotonic() + 60
    while Server(server.url).running() or ffmpegs(server):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


# -- one whole file --------------------------------------------------------------------------------


@pytest.mark.needs(speech=True)
@pytest.mark.parametrize("form", audio.FORMATS)
@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_is_one_whole_file_of_its_type(
    server: Any, request_body: dict[str, Any], form: str, streamed: bool
) -> None:
    fields = {"seed": 1, "response_format": form, "stream": streamed}
    with Answer(server, request_body | fields) as answer:
        assert answer.response.status == 200
        assert answer.type == audio.FORMATS[form].types[0]
        content = answer.response.read()
        assert answer.length == (None if streamed else str(len(content)))
    seconds = audio.read(content, form).seconds
    expected = len(speak(server, request_body, seed=1)) / 48_000
    assert expected > 1
    assert expected <= seconds + 0.001 < expected + 0.15  # codecs have ends of their own


@pytest.mark.needs(speech=True)
@pytest.mark.parametrize("streamed", [True, False])
def test_readers_find_every_sample_of_a_wav(
    server: Any, request_body: dict[str, Any], streamed: bool
) -> None:
    import soundfile

    pcm = speak(server, request_body, seed=2, stream=streamed)
    file = speak(server, request_body, seed=2, response_format="wav", stream=streamed)
    with wave.open(io.BytesIO(file)) as reader:
        assert (reader.getframerate(), reader.getsampwidth(), reader.getnchannels()) == (
            24000,
            2,
            1,
        )
        assert reader.readframes(reader.getnframes()) == pcm
    samples, rate = soundfile.read(io.BytesIO(file), dtype="int16")
    assert (samples.tobytes(), rate) == (pcm, 24_000)


@pytest.mark.parametrize("form", ["pcm", "wav", "mp3", "opus"])
def test_sound_comes_while_the_model_still_speaks(
    server: Any, request_body: dict[str, Any], form: str
) -> None:
    with Answer(server, request_body | {"input": LONG, "response_format": form}) as answer:
        first = answer.response.read1(1 << 20)
        while len(first) < 1000:
            first += answer.response.read1(1 << 20)
        assert Server(server.url).running() == 1
        assert audio.read(first + answer.response.read(), form).seconds > 10


@pytest.mark.parametrize("chunk", [1, 10, 25, 100])
def test_pieces_of_any_size_give_the_whole_speech(
    server: Any, request_body: dict[str, Any], chunk: int
) -> None:
    pcm = speak(server, request_body, seed=3)
    assert len(speak(server, request_body, seed=3, audio_chunk_size=chunk)) == len(pcm)
    if chunk >= 14:
        assert same_sound(speak(server, request_body, seed=3, audio_chunk_size=chunk), pcm)


@pytest.mark.needs(speech=True)
def test_the_shortest_speech_is_not_dropped(server: Any, request_body: dict[str, Any]) -> None:
    assert len(speak(server, request_body, max_tokens=9)) == 2 * 960
    assert len(speak(server, request_body, max_tokens=12)) == 4 * 2 * 960
    assert len(speak(server, request_body, input="A")) >= 2 * 960


def test_events_hold_the_file(server: Any, request_body: dict[str, Any]) -> None:
    fields = {"seed": 4, "response_format": "opus"}
    with Answer(server, request_body | fields | {"stream_format": "sse"}) as answer:
        assert answer.type.startswith("text/event-stream")
        lines = answer.response.read().decode().split("\n\n")
    assert lines.pop() == ""
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    done = events.pop()
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["total_tokens"] == sum(
        done["usage"][name] for name in ("input_tokens", "output_tokens")
    )
    assert {event["type"] for event in events} == {"speech.audio.delta"}
    file = b"".join(base64.b64decode(event["audio"]) for event in events)
    assert file == speak(server, request_body, **fields)
    assert len(events) > 1


# -- what a request asks for -----------------------------------------------------------------------


@pytest.mark.needs(speech=True)
@pytest.mark.parametrize(
    ("form", "speed"),
    [
        *((form, 1.5) for form in audio.FORMATS),
        *(("pcm", speed) for speed in (0.25, 0.5, 2.0, 4.0)),
    ],
)
def test_speed_is_honoured(
    server: Any, request_body: dict[str, Any], form: str, speed: float
) -> None:
    normal = len(speak(server, request_body, seed=5)) / 48_000
    content = speak(server, request_body, seed=5, speed=speed, response_format=form)
    assert audio.read(content, form).seconds == pytest.approx(normal / speed, abs=0.15)


@pytest.mark.needs(speech=True, sampling=True)
@pytest.mark.parametrize("form", audio.FORMATS)
def test_a_seed_gives_the_same_bytes(server: Any, request_body: dict[str, Any], form: str) -> None:
    first, second, other = (
        speak(server, request_body, seed=seed, response_format=form) for seed in (7, 7, 8)
    )
    assert first == second
    assert first != other


def test_speech_ends_with_its_text(server: Any, request_body: dict[str, Any]) -> None:
    """No token after the end of audio, no matter how many are allowed."""
    bounded = speak(server, request_body, seed=6)
    with Answer(
        server, request_body | {"seed": 6, "max_tokens": 4000, "stream_format": "sse"}
    ) as answer:
        *pieces, done = answer.response.read().decode().strip().split("\n\n")
    sounds = [json.loads(piece.removeprefix("data: "))["audio"] for piece in pieces]
    assert b"".join(map(base64.b64decode, sounds)) == bounded
    # The row of begin codes, a row for each frame, the delay of the last one, the end of audio.
    tokens = json.loads(done.removeprefix("data: "))["usage"]["output_tokens"]
    assert tokens <= len(bounded) / (2 * 960) + 1 + 8 + 1


@pytest.mark.needs(speech=True)
def test_instructions_and_texts_cannot_be_special_tokens(
    server: Any, request_body: dict[str, Any]
) -> None:
    def tokens(**fields: Any) -> int:
        with Answer(
            server, request_body | {"max_tokens": 9, "stream_format": "sse"} | fields
        ) as answer:
            done = answer.response.read().decode().strip().split("\n\n")[-1]
        return int(json.loads(done.removeprefix("data: "))["usage"]["input_tokens"])

    plain = tokens(input="a  b")
    assert tokens(input="a <|AUDIO_OUT|> b") == plain
    assert tokens(input="a  b", instructions=" <|eot_id|>") == plain
    scene = tokens(input="a  b", instructions="A cave.")
    assert scene > plain
    assert tokens(input="a  b", instructions="A <|AUDIO|>cave.") == scene


def test_unknown_fields_and_nulls_are_ignored(server: Any, request_body: dict[str, Any]) -> None:
    fields = {"seed": 9, "user": "me", "stop": ["x"], "speed": None, "instructions": None}
    assert speak(server, request_body, **fields) == speak(server, request_body, seed=9)


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.needs(speech=True, error_format=True)
@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("input", "", "nothing to speak"),
        ("input", " \n\t", "nothing to speak"),
        ("input", "long " * 2000, "at most 4096"),
        ("input", None, "required"),
        ("voice", None, "required"),
        ("response_format", "midi", "'flac'"),
        ("speed", 0.2, "greater than or equal to 0.25"),
        ("speed", 4.5, "less than or equal to 4"),
        ("speed", float("nan"), "finite number"),
        ("temperature", -1, "greater than or equal to 0"),
        ("temperature", float("inf"), "finite number"),
        ("top_p", 0, "greater than or equal to 0.001"),
        ("top_k", -2, "greater than or equal to -1"),
        ("seed", 2**64, "less than or equal to"),
        ("max_tokens", 8, "greater than or equal to 9"),
        ("max_tokens", -1, "greater than or equal to 9"),
        ("audio_chunk_size", 0, "greater than or equal to 1"),
        ("audio_chunk_overlap_size", -1, "greater than or equal to 0"),
        ("ras_win_len", 10**9, "less than or equal to 250"),
        ("stream_format", "json", "'audio' or 'sse'"),
    ],
)
def test_what_cannot_be_served_is_refused(
    server: Any, request_body: dict[str, Any], field: str, value: Any, allowed: str
) -> None:
    status, content = Server(server.url).post(SPEECH, request_body | {field: value})
    error = json.loads(content)["error"]
    assert (status, error["code"], error["param"]) == (400, 400, field)
    assert allowed in error["message"]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        pytest.param("input", ["a"], "valid string", marks=pytest.mark.needs(error_format=True)),
        pytest.param("input", "<|AUDIO|>", "special tokens", marks=pytest.mark.needs(speech=True)),
        pytest.param("voice", "nobody", "Voices: ", marks=pytest.mark.needs(speech=True)),
    ],
)
def test_what_has_no_meaning_is_refused(
    server: Any, request_body: dict[str, Any], field: str, value: Any, allowed: str
) -> None:
    test_what_cannot_be_served_is_refused(server, request_body, field, value, allowed)


def test_an_unknown_model_is_404(server: Any, request_body: dict[str, Any]) -> None:
    status, content = Server(server.url).post(SPEECH, request_body | {"model": "another"})
    assert (status, json.loads(content)["error"]["param"]) == (404, "model")


def test_what_is_no_json_is_refused(server: Any) -> None:
    for body in (b"", b"{", b"[]", b'"x"', b"\xff"):
        status, content = Server(server.url).ask("POST", SPEECH, body)
        assert status == 400
        assert json.loads(content)["error"]["message"]


def break_off(server: Any, body: dict[str, Any], api_key: str = "none") -> None:
    """End the encoder in the middle of an answer: the client must not take it for whole."""
    with Answer(server, body | {"input": LONG, "response_format": "mp3"}, api_key) as answer:
        assert answer.response.status == 200
        got = answer.response.read1(1 << 20)
        assert ffmpegs(server, "kill") == 1
        with pytest.raises(http.client.IncompleteRead) as broken:
            answer.response.read()
        assert b'"error"' not in got + broken.value.partial


@pytest.mark.needs(speech=True)
def test_a_broken_answer_is_cut(server: Any, request_body: dict[str, Any]) -> None:
    break_off(server, request_body)
    assert idle(server)
    assert len(speak(server, request_body, response_format="mp3")) > 1000


@pytest.mark.needs(error_format=True)
def test_a_broken_answer_is_cut_behind_an_api_key_too(
    start_server: Any, request_body: dict[str, Any]
) -> None:
    """The middleware that checks the key would end the body as if it were whole."""
    with start_server(["--api-key", "a-secret-key"]) as running:
        break_off(running, request_body, "a-secret-key")


# -- many at a time --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pcm", "mp3"])
@pytest.mark.parametrize("hears", [0, 1000])
def test_a_client_who_leaves_frees_its_place(
    server: Any, request_body: dict[str, Any], form: str, hears: int
) -> None:
    """Before the first byte, and in the middle."""
    assert idle(server)
    target = Server(server.url)
    connection = http.client.HTTPConnection(target.host, target.port, timeout=600)
    body = request_body | {"input": LONG, "response_format": form}
    connection.request("POST", SPEECH, json.dumps(body), {"Content-Type": "application/json"})
    if hears:
        with connection.getresponse() as response:
            assert response.read1(hears)
            assert target.running() == 1
    else:
        while not target.running():
            time.sleep(0.05)
    connection.close()
    left = time.monotonic()
    while target.running():
        assert time.monotonic() - left < FREE_WITHIN
        time.sleep(0.05)
    print(f"its place was free after {time.monotonic() - left:.2f} s")
    assert idle(server)


@pytest.mark.needs(speech=True)
def test_eight_answers_at_once_are_whole_and_not_mixed_up(
    server: Any, request_body: dict[str, Any]
) -> None:
    forms = [*audio.FORMATS, "mp3", "opus"]
    texts = [TEXT + " And on." * (3 * i) for i in range(len(forms))]
    alone = [len(speak(server, request_body, input=text)) / 48_000 for text in texts]
    files: dict[int, bytes] = {}

    def ask(i: int) -> None:
        files[i] = speak(server, request_body, input=texts[i], response_format=forms[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(forms))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, form in enumerate(forms):
        seconds = audio.read(files[i], form).seconds
        assert alone[i] <= seconds + 0.001 < alone[i] + 0.15, (i, form)
    assert idle(server)


def test_memory_is_flat_over_100_requests(server: Any, request_body: dict[str, Any]) -> None:
    """Eight at a time, in all formats and speeds, some of whose clients leave in the middle."""
    forms = list(audio.FORMATS)

    def ask(i: int) -> None:
        fields = {
            "input": "Good morning.", "response_format": forms[i % len(forms)],
            "speed": (1.0, 1.25)[i % 2],
        }  # fmt: skip
        if i % 10 == 9:
            with Answer(server, request_body | fields) as answer:
                answer.response.read(500)
            return
        speak(server, request_body, **fields, stream=i % 3 > 0)

    used = []
    with ThreadPoolExecutor(8) as pool:
        for round_ in range(6):
            list(pool.map(ask, range(25 * round_, 25 * round_ + 25)))
            assert idle(server)
            used.append(float(server.container.output_of("python3", "-c", MEMORY)))
    print("MB after 25, 50, ... requests:", [round(mb) for mb in used])
    assert used[-1] < used[1] * MORE_MEMORY


@pytest.mark.needs(preprocessing=True)
def test_health_is_answered_while_eight_requests_decode(
    server: Any, request_body: dict[str, Any]
) -> None:
    """Four of them with a voice that nobody has heard before, which has to be encoded."""
    chance = random.Random(time.time())
    model = request_body["model"]

    def hear() -> None:
        own = hostile_audio.wav(0, data=chance.randbytes(2 * 24_000 * 25))
        part = {"data": base64.b64encode(own).decode(), "format": "wav"}
        messages = [
            {"role": "user", "content": "That is my voice."},
            {"role": "assistant", "content": [{"type": "input_audio", "input_audio": part}]},
            {"role": "user", "content": TEXT},
        ]
        fields = {"model": model, "messages": messages, "modalities": ["audio"], "max_tokens": 200}
        assert Server(server.url).post("/v1/chat/completions", fields)[0] == 200

    threads = [
        *(threading.Thread(target=speak, args=(server, request_body | {"input": LONG}))
          for _ in range(4)),
        *(threading.Thread(target=hear) for _ in range(4)),
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    waits = []
    while any(thread.is_alive() for thread in threads):
        asked = time.monotonic()
        assert Server(server.url).ask("GET", "/health")[0] == 200
        waits.append(time.monotonic() - asked)
        time.sleep(0.1)
    print(f"/health was asked {len(waits)} times and took at most {max(waits):.2f} s")
    assert max(waits) < 1.0


# -- clients ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    import openai

    yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=600)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=[] if form == "pcm" else pytest.mark.needs(speech=True))
        for form in audio.FORMATS
    ],
)
def test_openai_client_speaks(client: Any, model: str, form: str) -> None:
    fields = {"model": model, "voice": "alloy", "input": TEXT, "response_format": form}
    assert audio.read(client.audio.speech.create(**fields).content, form).seconds > 1
    with client.audio.speech.with_streaming_response.create(
        **fields, speed=1.5, instructions="A quiet room."
    ) as response:
        content = b"".join(response.iter_bytes())
    assert audio.read(content, form).seconds > 0.7


@pytest.mark.needs(speech=True)
def test_what_says_no_format_gets_mp3(client: Any, server: Any, model: str, voice: str) -> None:
    """As OpenAI has it: Open WebUI names none, and the file that it keeps is called .mp3."""
    fields = {"model": model, "voice": voice, "input": TEXT}
    assert audio.read(client.audio.speech.create(**fields).content, "mp3").seconds > 1
    with Answer(server, fields) as answer:
        assert answer.type == "audio/mpeg"


def test_openai_client_sees_what_is_wrong(client: Any, model: str) -> None:
    import openai

    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.speech.create(model=model, voice="alloy", input="")
    assert refused.value.param == "input"
    with pytest.raises(openai.BadRequestError, match="nobody"):
        client.audio.speech.create(model=model, voice="nobody", input="Hi")
    with pytest.raises(openai.NotFoundError):
        client.audio.speech.create(model="another", voice="alloy", input="Hi")


def test_curl_gets_a_file(server: Any, request_body: dict[str, Any]) -> None:
    debian.require_program("curl")
    command = ["curl", "-sS", "--fail-with-body", "-H", "Content-Type: application/json"]
    body = json.dumps(request_body | {"response_format": "wav"})
    done = subprocess.run([*command, "-d", body, server.url + SPEECH], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert audio.read(done.stdout, "wav").seconds > 1
    body = json.dumps(request_body | {"input": ""})
    done = subprocess.run([*command, "-d", body, server.url + SPEECH], capture_output=True)
    assert done.returncode == 22
    assert json.loads(done.stdout)["error"]["param"] == "input"
