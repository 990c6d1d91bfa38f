"""A speech request from its prompt to its end, however it ends.

The engine is a fake that answers what each test needs; tests/fork asks the real one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from higgs_patches.lib import speech_prompt
from higgs_patches.lib.errors import ErrorResponse, RefusedError
from higgs_patches.lib.speech_collector import ENOUGH
from higgs_patches.lib.speech_length import default_max_tokens
from higgs_patches.lib.speech_request import SpeechRequest
from higgs_patches.lib.voices.voice import Voice, Voices
from higgs_patches.patches import error_format, media, speech
from starlette.requests import Request

from tests.unit.patches import test_decoding as codec

BODY = {"model": "m", "voice": "belinda", "input": "Hello.", "response_format": "pcm"}
VOICE = Voice("belinda", "What she said.", b"RIFF")
UNCLEAN = Voice("belinda", "What <|x|>she said.", b"RIFF")
DESCRIBED = Voice("calm", "", b"", system_prompt="A calm voice.")
ROWS = codec.speech(60)[1]
PCM = codec.expected(codec.speech(60)[0])


def request(**fields: Any) -> SpeechRequest:
    return SpeechRequest.model_validate(BODY | fields)


# -- prompt and settings ---------------------------------------------------------------------------


def test_a_recorded_voice_speaks_a_turn_before_the_text() -> None:
    assert speech_prompt.messages(VOICE, "Hello.", "") == [
        {"role": "system", "content": "Convert text to speech with the same voice."},
        {"role": "user", "content": "What she said."},
        {"role": "assistant", "content": "<|audio_bos|><|AUDIO|><|audio_eos|>"},
        {"role": "user", "content": "Hello."},
    ]


def test_a_described_voice_has_no_recording() -> None:
    assert speech_prompt.messages(DESCRIBED, "Hello.", "") == [
        {"role": "system", "content": "A calm voice."},
        {"role": "user", "content": "Hello."},
    ]


@pytest.mark.parametrize(
    ("voice", "first"),
    [(VOICE, "Generate audio following instruction."), (DESCRIBED, "A calm voice.")],
)
def test_instructions_are_the_description_of_the_scene(voice: Voice, first: str) -> None:
    system = speech_prompt.messages(voice, "Hello.", "A quiet room.")[0]["content"]
    assert system == f"{first}\n\n<|scene_desc_start|>\nA quiet room.\n<|scene_desc_end|>"


def test_settings_of_the_sampler() -> None:
    assert speech_prompt.sampling_settings(request(), "Hello.", 8000) == {
        "temperature": 1.0,
        "top_p": 0.95,
        "top_k": 50,
        "seed": None,
        "max_tokens": default_max_tokens("Hello."),
        "extra_args": None,
    }
    fields = {"top_k": 0, "seed": 3, "max_tokens": 99, "ras_win_len": 0, "temperature": 0}
    assert speech_prompt.sampling_settings(request(**fields), "Hello.", 8000) == {
        "temperature": 0.0,
        "top_p": 0.95,
        "top_k": -1,
        "seed": 3,
        "max_tokens": 99,
        "extra_args": {"ras_win_len": 0},
    }


def test_no_answer_is_longer_than_the_context() -> None:
    for fields in ({}, {"max_tokens": 5000}):
        assert speech_prompt.sampling_settings(request(**fields), "Hello.", 60)["max_tokens"] == 60


def test_a_text_that_cannot_be_spoken_to_its_end_is_refused() -> None:
    text = "Hello there. " * 300  # five minutes: 7509 tokens
    assert speech_prompt.sampling_settings(request(), text, 8000)["max_tokens"] == 8000
    with pytest.raises(RefusedError, match=r"leaves 7000 of .* about 3635 of the 3900"):
        speech_prompt.sampling_settings(request(), text, 7000)
    # With a limit of its own the client knows that the answer may end before the text.
    assert (
        speech_prompt.sampling_settings(request(max_tokens=1000), text, 5000)["max_tokens"] == 1000
    )
    for fields in ({}, {"max_tokens": 1000}):
        with pytest.raises(RefusedError, match="leaves 0 of the model's context"):
            speech_prompt.sampling_settings(request(**fields), "Hi", -7)


# -- from request to answer ------------------------------------------------------------------------


class Tokenizer:
    all_special_tokens: tuple[str, ...] = ()

    def get_added_vocab(self) -> dict[str, int]:
        return {"<|x|>": 1}


class Engine:
    """Says the rows that it was given, then ends as it was told."""

    def __init__(self, rows: list[list[int]], end: str | Exception | None = "stop") -> None:
        self.rows, self.end = rows, end
        self.started: list[str] = []
        self.aborted: list[str] = []
        self.closed = 0
        self.waits = asyncio.Event()
        self.enough: list[Any] = []

    async def get_tokenizer(self, lora: None) -> Any:
        return Tokenizer()

    async def generate(
        self, prompt: Any, params: Any, request_id: str
    ) -> AsyncGenerator[Any, None]:
        self.started.append(request_id)
        self.enough = [(enough := ENOUGH.get()) and (enough(1), enough(100))]
        try:
            for row in self.rows:
                await asyncio.sleep(0)
                yield self.output([row])
                self.enough.append(ENOUGH.get())
            if self.end is None:
                self.waits.set()
                await asyncio.Event().wait()
            if isinstance(self.end, Exception):
                raise self.end
            yield self.output(None, self.end)
        finally:
            self.closed += 1

    def output(self, rows: Any, reason: str | None = None) -> Any:
        completion = SimpleNamespace(token_ids=[1], mm_token_ids=rows, finish_reason=reason)
        return SimpleNamespace(prompt_token_ids=[1, 2, 3], outputs=[completion])

    async def abort(self, request_id: str) -> None:
        await asyncio.sleep(0)
        self.aborted.append(request_id)


recordings: list[Any] = []
"""Recordings that prompts were made with."""


@pytest.fixture(autouse=True)
def prompted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Without vLLM: what prompts were made of (transcript, text, scene)."""
    made = []
    recordings.clear()

    async def prompt(
        _: Any, __: Any, voice: Voice, text: str, scene: str, recording: Any
    ) -> tuple[None, int]:
        recordings.append(recording)
        made.append((voice.transcript, text, scene))
        return None, 10

    monkeypatch.setattr(speech, "build_prompt", prompt)
    monkeypatch.setattr(speech, "sampling_params", lambda *_: None)
    return made


def application(engine: Engine, missing: Any = None, middleware: bool = False) -> FastAPI:
    async def check_model(request: Any) -> Any:
        return missing

    def build_app(args: Any) -> FastAPI:
        app = FastAPI()

        async def create_audio_speech(
            request: speech.AudioSpeechRequest, raw_request: Request
        ) -> Any:
            raise AssertionError("the fork's own is not called")

        # FastAPI looks names up here, which postponed annotations hide from it.
        create_audio_speech.__annotations__ |= {
            "request": speech.AudioSpeechRequest,
            "raw_request": Request,
            "return": Any,
        }
        app.post("/", response_model=None)(speech.answered(create_audio_speech))
        app.state.voice_presets = Voices({"belinda": UNCLEAN})
        app.state.openai_serving_audio = SimpleNamespace(
            engine_client=engine,
            audio_tokenizer=codec.Codec(),
            audio_stream_bos_id=codec.BOS,
            audio_stream_eos_id=codec.EOS,
            max_model_len=1000,
            _check_model=check_model,
            _base_request_id=lambda raw: "mine",
            _log_inputs=lambda *_: None,
        )
        if middleware:  # as --api-key brings it

            @app.middleware("http")
            async def passing(request: Request, call_next: Any) -> Any:
                return await call_next(request)

        return app

    app: FastAPI = error_format.with_errors(build_app)(None)
    return app


class Exchange:
    """One request and what the server sent; the client may leave at any message."""

    def __init__(self, leaves: Callable[[Exchange], bool] = lambda exchange: False) -> None:
        self.leaves = leaves
        self.sent: list[Any] = []
        self.left: Exception | None = None
        self.changed = asyncio.Event()

    async def run(self, app: FastAPI, body: dict[str, Any]) -> None:
        given: Iterator[Any] = iter(
            [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        )

        async def receive() -> Any:
            if message := next(given, None):
                return message
            while not self.leaves(self):
                await asyncio.sleep(0.001)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.sent.append(message)
            await asyncio.sleep(0)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"content-type", b"application/json")],
            "server": ("test", 80),
            "client": ("test", 1),
        }
        self.scope: dict[str, Any] = scope
        try:
            await asyncio.wait_for(app(scope, receive, send), 30)
        except Exception as error:
            self.left = error

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def ended(self) -> bool:
        return not self.sent[-1].get("more_body")


def ask(
    rows: list[list[int]],
    end: str | Exception | None = "stop",
    leaves: Callable[[Engine, Exchange], bool] = lambda engine, exchange: False,
    middleware: bool = False,
    **fields: Any,
) -> tuple[Exchange, Engine]:
    """Ask once; whatever happens, the engine has to be told and its stream be closed."""

    async def run() -> tuple[Exchange, Engine]:
        engine = Engine(rows, end)
        exchange = Exchange(lambda exchange: leaves(engine, exchange))
        await exchange.run(application(engine, middleware=middleware), BODY | fields)
        for _ in range(100):
            await asyncio.sleep(0.001)
        return exchange, engine

    exchange, engine = asyncio.run(run())
    assert engine.closed == len(engine.started)
    if engine.started and not (exchange.sent and exchange.ended and exchange.status == 200):
        assert engine.aborted == engine.started
    return exchange, engine


@pytest.mark.parametrize(
    ("fields", "kind", "head"),
    [
        ({}, "audio/pcm", 0),
        ({"stream": False}, "audio/pcm", 0),
        ({"response_format": "wav"}, "audio/wav", 44),
        ({"response_format": "wav", "stream": False}, "audio/wav", 44),
    ],
)
def test_a_good_request_gets_its_speech(fields: dict[str, Any], kind: str, head: int) -> None:
    exchange, _ = ask(ROWS, **fields)
    assert (exchange.status, exchange.headers["content-type"]) == (200, kind)
    assert exchange.body[head:] == PCM
    assert exchange.headers.get("content-length") == (
        str(len(PCM) + head) if "stream" in fields else None
    )


def test_the_engine_is_told_how_many_frames_are_enough() -> None:
    """While it takes the request; not those that the same task makes later."""
    _, engine = ask(ROWS)
    assert engine.enough == [(False, True)] + len(ROWS) * [None]


def test_a_stream_begins_before_the_speech_ends() -> None:
    def leaves(engine: Engine, exchange: Exchange) -> bool:
        return engine.waits.is_set() and len(exchange.body) > 0

    exchange, _ = ask(ROWS[:40], end=None, leaves=leaves)
    assert exchange.status == 200
    assert 0 < len(exchange.body) < len(PCM)
    assert PCM.startswith(exchange.body)


def test_an_id_is_never_that_of_another_request() -> None:
    """Two clients may send the same X-Request-Id, and an abort is by id."""
    ids = [ask(ROWS)[1].started[0] for _ in range(2)]
    assert ids[0] != ids[1]
    assert all("mine" in name for name in ids)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("rows", "end", "status", "says"),
    [
        ([], ValueError("the prompt is longer than the context"), 400, "longer than the context"),
        ([], RefusedError("no memory left", status=HTTPStatus(503)), 503, "no memory left"),
        ([], LookupError("secret"), 500, "LookupError"),
        ([], "stop", 500, "before a frame of audio"),
        (ROWS[:4], "stop", 500, "try again"),
        (ROWS[:4], "abort", 500, "RuntimeError"),
        (ROWS[:20], ValueError("from the codec"), 500, "ValueError"),
    ],
)
def test_what_fails_before_the_first_sound_is_an_error(
    rows: list[list[int]], end: str | Exception, status: int, says: str, streamed: bool
) -> None:
    exchange, _ = ask(rows, end, stream=streamed)
    error = json.loads(exchange.body)["error"]
    assert (exchange.status, error["code"]) == (status, status)
    assert says in error["message"]
    assert "secret" not in error["message"]


@pytest.mark.parametrize("end", [LookupError("gone"), "abort"])
@pytest.mark.parametrize("form", ["pcm", "wav"])
@pytest.mark.parametrize("middleware", [False, True])
def test_what_fails_later_cuts_the_connection(
    end: str | Exception, form: str, middleware: bool
) -> None:
    exchange, _ = ask(ROWS[:60], end, response_format=form, middleware=middleware)
    assert exchange.status == 200
    assert exchange.left is not None
    assert not exchange.ended
    assert PCM.startswith(exchange.body[44 if form == "wav" else 0 :])


@pytest.mark.parametrize("end", [LookupError("gone"), "abort"])
def test_a_file_that_is_sent_at_once_can_still_become_an_error(end: str | Exception) -> None:
    exchange, _ = ask(ROWS[:60], end, stream=False)
    assert exchange.status == 500
    assert json.loads(exchange.body)["error"]


@pytest.mark.parametrize("form", ["pcm", "wav"])
@pytest.mark.parametrize("middleware", [False, True])
def test_a_client_who_leaves_ends_its_request(form: str, middleware: bool) -> None:
    for bodies in (0, 1, 2):

        def leaves(engine: Engine, exchange: Exchange, bodies: int = bodies) -> bool:
            return len(exchange.sent) > bodies

        _, engine = ask(ROWS, None, leaves, middleware, response_format=form)
        assert engine.aborted == engine.started != []


def test_a_voice_that_is_not_there_is_refused() -> None:
    exchange, engine = ask(ROWS, voice="nobody")
    assert (exchange.status, engine.started) == (400, [])
    error = json.loads(exchange.body)["error"]
    assert error["param"] == "voice"
    assert "belinda" in error["message"]


def test_no_text_becomes_a_special_token(prompted: list[tuple[str, str, str]]) -> None:
    ask(ROWS, input="a <|x|>b", instructions=" <|<|x|>x|>A cave. ")
    assert prompted == [("What she said.", "a b", "A cave.")]


def test_a_text_of_special_tokens_is_refused() -> None:
    exchange, engine = ask(ROWS, input=" <|x|> ")
    assert (exchange.status, engine.started) == (400, [])
    assert json.loads(exchange.body)["error"]["param"] == "input"


def test_a_model_that_is_not_there_is_404() -> None:
    async def run() -> Exchange:
        missing = ErrorResponse(message="no model 'm'", type="NotFoundError", code=404)
        exchange = Exchange()
        await exchange.run(application(Engine(ROWS), missing), BODY | {"model": "m" * 10_000})
        return exchange

    exchange = asyncio.run(run())
    assert exchange.status == 404
    message = json.loads(exchange.body)["error"]["message"]
    assert "does not exist" in message
    assert len(message) < 200


def test_events_carry_the_file_and_the_usage() -> None:
    exchange, _ = ask(ROWS, stream_format="sse")
    lines = exchange.body.decode().split("\n\n")[:-1]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert [event["type"] for event in events[:-1]] == ["speech.audio.delta"] * (len(events) - 1)
    assert events[-1] == {
        "type": "speech.audio.done",
        "usage": {
            "input_tokens": 3,
            "output_tokens": len(ROWS) + 1,
            "total_tokens": len(ROWS) + 4,
        },
        "finish_reason": "stop",
    }


@pytest.mark.parametrize(
    ("rows", "end", "reason"),
    [
        (ROWS, "stop", "stop"),
        (ROWS[:60], "length", "length"),
        (ROWS, "length", "stop"),  # the audio had ended before the limit
    ],
)
def test_an_answer_says_how_it_ended(
    rows: list[list[int]], end: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Speech that a limit has cut must not look like a complete one."""
    caplog.set_level("INFO", logger="vllm.higgs_patches.speech")
    exchange, _ = ask(rows, end, stream=False)
    assert exchange.headers["x-finish-reason"] == reason
    exchange, _ = ask(rows, end)
    assert exchange.headers["trailer"] == "X-Finish-Reason"
    assert exchange.scope["higgs.trailers"] == [(b"X-Finish-Reason", reason.encode())]
    exchange, _ = ask(rows, end, stream_format="sse")
    done = json.loads(exchange.body.decode().split("\n\n")[-2].removeprefix("data: "))
    assert done["finish_reason"] == reason
    ended = [record for record in caplog.records if " ended " in record.getMessage()]
    assert len(ended) == 3
    assert {record.levelname for record in ended} == {"INFO" if reason == "stop" else "WARNING"}


def test_a_recording_of_the_request_is_spoken_with(
    prompted: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def fetch(_: Any, url: str) -> tuple[str, int]:
        asked.append(url)
        return "samples", 24_000

    monkeypatch.setattr(media, "fetch_audio_async", fetch)
    for given in ("UklGRg==", "data:audio/wav;base64,UklGRg=="):
        exchange, _ = ask(ROWS, ref_audio=given, ref_text="What <|x|>I say.", voice=None)
        assert exchange.status == 200
    assert asked == ["data:audio/any;base64,UklGRg==", "data:audio/wav;base64,UklGRg=="]
    assert prompted == [("What I say.", BODY["input"], "")] * 2
    assert recordings == [("samples", 24_000)] * 2


@pytest.mark.parametrize("value", ["AAAA", "http://10.0.0.1/a.wav", "file:///etc/passwd", "x:y"])
def test_a_recording_that_cannot_be_used_is_refused(value: str) -> None:
    exchange, engine = ask(ROWS, ref_audio=value, ref_text="What I say.")
    assert (exchange.status, engine.started) == (400, [])
    assert json.loads(exchange.body)["error"]["param"] == "ref_audio"
