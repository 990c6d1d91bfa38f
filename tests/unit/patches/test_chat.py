"""Chat completions: prompts, and answers made of what the engine says."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from higgs_patches.lib import chat_completion
from higgs_patches.lib.audio.codec_thread import Piece
from higgs_patches.lib.audio.decoding import AudioDecoder
from higgs_patches.lib.chat_choice import Choice
from higgs_patches.lib.chat_completion import (
    Completion,
    MissingAudioError,
)
from higgs_patches.lib.chat_prompt import (
    begins_with_audio,
    check_audios,
    clean_messages,
    longest_answer,
    with_voice,
)
from higgs_patches.lib.chat_request import ChatRequest, read
from higgs_patches.lib.errors import RefusedError
from higgs_patches.lib.voices.voice import Voice
from higgs_patches.patches import chat
from higgs_patches.patches.chat import EventStream

BOOKS, BOS, EOS = 8, 1024, 1025
TOKENS = ("<|scene_desc_start|>", "<|generation_instruction_start|>", "<|AUDIO_OUT|>", "<|eot_id|>")


class Codec:
    """Sound whose samples are the first code of their frame: 960 a frame, as the model's."""

    num_codebooks, codebook_size, sampling_rate = BOOKS, 1024, 24_000

    def decode(self, pieces: list[Piece], /) -> list[tuple[Any, Any]]:
        return [(np.repeat(piece.codes[0], 960).astype(np.int16), ()) for piece in pieces]


@dataclass
class Output:
    text: str = ""
    mm_token_ids: list[list[int]] | None = None
    finish_reason: str | None = None
    index: int = 0
    token_ids: list[int] = field(default_factory=lambda: [1])
    stop_reason: Any = None


@dataclass
class Result:
    outputs: list[Output]
    finished: bool = False
    prompt_token_ids: list[int] = field(default_factory=lambda: [1, 2, 3])


def utterance(frames: int, value: int) -> list[list[int]]:
    """The rows of an utterance: begin, frames with their delay, end."""
    rows = [[BOS] * BOOKS]
    for row in range(frames + BOOKS):
        rows.append(
            [BOS if row < book else value if row - book < frames else EOS for book in range(BOOKS)]
        )
    return rows


def decoder() -> AudioDecoder:
    return AudioDecoder(Codec(), bos_id=BOS, eos_id=EOS)


def values(pcm: bytes) -> dict[int, int]:
    """How many frames of each value there are."""
    samples = np.frombuffer(pcm, "<i2")
    found, counts = np.unique(samples, return_counts=True)
    return {int(value): int(count) // 960 for value, count in zip(found, counts, strict=True)}


# -- the prompt ------------------------------------------------------------------------------------


def test_only_the_marks_of_texts_stay_in_messages() -> None:
    text = "a<|scene_desc_start|>b<|generation_instruction_start|>c<|AUDIO_OUT|>d<|eot_id|>"
    part = {"type": "audio_url", "audio_url": {"url": "data:,<|AUDIO_OUT|>"}}
    cleaned = clean_messages(
        [
            {"role": "system", "content": text},
            {"role": "user", "content": [{"type": "text", "text": text}, part]},
            {"role": "assistant", "content": text},
        ],
        TOKENS,
    )
    assert cleaned == [
        {
            "role": "system",
            "content": "a<|scene_desc_start|>b<|generation_instruction_start|>cd",
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "ab<|generation_instruction_start|>cd"},
                part,
            ],
        },
        {"role": "assistant", "content": "abcd"},
    ]


def test_a_voice_stands_after_the_system_message() -> None:
    voice = Voice("v", "What I said.", b"RIFF")
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    url = "data:audio/wav;base64," + base64.b64encode(b"RIFF").decode()
    example = [
        {"role": "user", "content": "What I said."},
        {"role": "assistant", "content": [{"type": "audio_url", "audio_url": {"url": url}}]},
    ]
    assert with_voice(messages, voice) == [messages[0], *example, messages[1]]
    assert with_voice(messages[1:], voice) == [*example, messages[1]]
    assert with_voice(messages[:1], voice) == [messages[0], *example]


def test_a_voice_in_words_is_a_system_message() -> None:
    voice = Voice("v", "", b"", "A deep voice.")
    messages = [{"role": "user", "content": "u"}]
    assert with_voice(messages, voice) == [
        {"role": "system", "content": "A deep voice."},
        *messages,
    ]


def asked(text: str = "hello", **fields: Any) -> ChatRequest:
    return read({"messages": [{"role": "user", "content": text}], **fields})


def test_when_an_answer_begins_with_audio() -> None:
    instruction = "<|generation_instruction_start|>Both.<|generation_instruction_end|>"
    assert begins_with_audio(asked(modalities=["audio"]))
    assert begins_with_audio(asked(modalities=["text", "audio"]))
    assert not begins_with_audio(asked(modalities=["text"]))
    assert not begins_with_audio(asked())
    assert not begins_with_audio(asked(instruction, modalities=["text", "audio"]))
    assert begins_with_audio(asked(instruction, modalities=["audio"]))


def test_audio_has_a_bound_that_grows_with_the_text() -> None:
    assert longest_answer(asked("hello", modalities=["audio"])) == 1500
    assert 4000 < longest_answer(asked("word " * 500, modalities=["audio"])) < 15_000
    assert longest_answer(asked("hello")) == float("inf")


# -- the answer ------------------------------------------------------------------------------------


def run(choice: Choice, *outputs: Output) -> tuple[str, bytes]:
    async def all_of_it() -> tuple[str, bytes]:
        text, pcm = "", b""
        for output in outputs:
            more = await choice.take(output)
            text, pcm = text + more[0], pcm + more[1]
        return text, pcm

    return asyncio.run(all_of_it())


def choice() -> Choice:
    return Choice(0, decoder, BOS, TOKENS)


def test_text_and_utterances_in_any_order() -> None:
    outputs = [
        Output("one "),
        *[Output("<|AUDIO_OUT|>", [row]) for row in utterance(30, 5)],
        Output("two"),
        *[Output("<|AUDIO_OUT|>", [row]) for row in utterance(40, 6)],
        Output("", finish_reason="stop"),
    ]
    text, pcm = run(choice(), *outputs)
    assert text == "one two"
    assert values(pcm) == {5: 30, 6: 40}


def test_an_utterance_is_complete_as_soon_as_text_follows() -> None:
    outputs = [Output("", [row]) for row in utterance(30, 5)]
    _, pcm = run(choice(), *outputs, Output("so"))
    assert values(pcm) == {5: 30}


def test_outputs_that_came_together_are_told_apart() -> None:
    """The engine puts outputs together when the reader is slow: text and rows lose their order."""
    rows = utterance(30, 5) + utterance(40, 6)
    text, pcm = run(choice(), Output("both", rows, finish_reason="stop"))
    assert (text, values(pcm)) == ("both", {5: 30, 6: 40})
    for cut in (1, 10, 38, 39, 40, 45):
        _, pcm = run(
            choice(), Output("", rows[:cut]), Output("", rows[cut:], finish_reason="length")
        )
        assert values(pcm) == {5: 30, 6: 40}, cut


def test_an_answer_that_is_cut_short_keeps_its_complete_frames() -> None:
    one = choice()
    _, pcm = run(one, Output("", utterance(30, 5)[:20], finish_reason="length"))
    assert values(pcm) == {5: 12}
    assert (one.finish_reason, one.spoke) == ("length", True)


def test_an_utterance_without_a_complete_frame_is_nothing() -> None:
    one = choice()
    text, pcm = run(one, Output("a", utterance(30, 5)[:4]), Output("b", finish_reason="stop"))
    assert (text, pcm, one.spoke, one.tokens) == ("ab", b"", False, 2)


class Engine:
    """Gives results, and says whether its request was ended."""

    def __init__(self, *results: Result | Exception) -> None:
        self.results = results
        self.ended = False

    async def generate(self) -> Any:
        try:
            for result in self.results:
                await asyncio.sleep(0)
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            self.ended = True


class Serving:
    model_config = SimpleNamespace(
        multimodal_config=SimpleNamespace(get_limit_per_prompt=lambda kind: {"audio": 2}[kind])
    )
    audio_tokenizer = Codec()
    audio_stream_bos_id, audio_stream_eos_id = BOS, EOS


async def begun(engine: Engine, **fields: Any) -> Completion:
    completion = Completion(Serving(), asked(**fields), "m", "id")
    completion.choices = [
        Choice(index, decoder, BOS, TOKENS) for index in range(completion.request.n)
    ]
    completion._outputs = engine.generate()
    completion._first = await anext(completion._outputs)
    completion.prompt_tokens = 3
    return completion


def spoken(frames: int = 60) -> list[Result]:
    rows = [Result([Output("<|AUDIO_OUT|>", [row])]) for row in utterance(frames, 7)]
    return [*rows, Result([Output("", finish_reason="stop")], finished=True)]


def whole(*results: Any, **fields: Any) -> Any:
    async def answer() -> Any:
        return await (await begun(Engine(*results), **fields)).whole()

    return asyncio.run(answer())


def test_an_answer_at_once() -> None:
    answer = whole(*spoken(), modalities=["audio"], audio={"format": "pcm16"})
    json.dumps(answer, allow_nan=False)
    (only,) = answer["choices"]
    assert only["finish_reason"] == "stop"
    assert only["message"]["content"] == ""
    assert values(base64.b64decode(only["message"]["audio"]["data"])) == {7: 60}
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 70, "total_tokens": 73}


def test_an_answer_of_text() -> None:
    answer = whole(Result([Output("hi", finish_reason="stop")], finished=True))
    assert answer["choices"][0]["message"]["content"] == "hi"
    assert answer["choices"][0]["message"]["audio"] is None


def test_silence_is_an_error_where_audio_was_asked_for() -> None:
    ended = Result([Output("hi", finish_reason="stop")], finished=True)
    with pytest.raises(MissingAudioError):
        whole(ended, modalities=["audio"])
    assert whole(ended, modalities=["text"])["choices"]
    cut = Result([Output("hi", finish_reason="length")], finished=True)
    assert whole(cut, modalities=["audio"])["choices"][0]["message"]["audio"] is None


def test_a_stop_of_the_client_may_end_the_answer_before_its_audio() -> None:
    stopped = Result([Output("", finish_reason="stop", stop_reason=7)], finished=True)

    async def answer(stops: set[Any]) -> Any:
        completion = await begun(Engine(stopped), modalities=["audio"])
        completion._client_stops = stops
        return await completion.whole()

    assert asyncio.run(answer({7, "x"}))["choices"][0]["message"]["audio"] is None
    with pytest.raises(MissingAudioError):
        asyncio.run(answer({8}))


def test_more_audios_than_a_prompt_may_have_are_refused() -> None:
    part = {"type": "audio_url", "audio_url": {"url": "data:"}}
    check_audios([{"role": "user", "content": [part] * 2}], Serving.model_config)
    with pytest.raises(RefusedError, match="messages hold 3 audios; at most 2 are possible"):
        check_audios([{"role": "user", "content": [part] * 3}], Serving.model_config)


def events(*results: Any, **fields: Any) -> list[Any]:
    async def stream() -> list[str]:
        completion = await begun(Engine(*results), stream=True, **fields)
        return [event async for event in completion.events()]

    texts = asyncio.run(stream())
    assert all(text.startswith("data: ") and text.endswith("\n\n") for text in texts)
    return [text[6:-2] if "[DONE]" in text else json.loads(text[6:]) for text in texts]


def test_a_stream() -> None:
    every = events(
        Result([Output("Hi")]),
        *spoken(),
        modalities=["audio"],
        stream_options={"include_usage": True},
    )
    assert every[-1] == "[DONE]"
    assert every[-2]["choices"] == []
    assert every[-2]["usage"]["completion_tokens"] == 71
    deltas = [event["choices"][0]["delta"] for event in every[:-2]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1] == {"content": "Hi"}
    sounds = [delta["audio"] for delta in deltas if "audio" in delta]
    for name in ("id", "expires_at", "transcript"):
        assert [name in sound for sound in sounds] == [True] + [False] * (len(sounds) - 1)
    pcm = b"".join(base64.b64decode(sound["data"]) for sound in sounds)
    assert values(pcm) == {7: 60}
    assert all(len(sound["data"]) <= 64_000 for sound in sounds)
    assert every[-3]["choices"][0]["finish_reason"] == "stop"


def test_events_are_never_longer_than_a_second_of_sound() -> None:
    every = events(Result([Output("", utterance(200, 7), finish_reason="stop")], finished=True))
    sounds = [event["choices"][0]["delta"].get("audio") for event in every[:-1]]
    data = [base64.b64decode(sound["data"]) for sound in sounds if sound]
    assert values(b"".join(data)) == {7: 200}
    assert max(map(len, data)) == 48_000


def test_an_error_in_a_stream_is_an_event_and_the_last_one() -> None:
    every = events(Result([Output("Hi")]), RuntimeError("secret"), modalities=["text"])
    assert every[-2]["choices"][0]["delta"] == {"content": "Hi"}
    assert every[-1]["error"]["code"] == 500
    assert "secret" not in json.dumps(every[-1])
    silent = events(
        Result([Output("Hi", finish_reason="stop")], finished=True), modalities=["audio"]
    )
    assert "without audio" in silent[-1]["error"]["message"]


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_who_leaves_a_stream_ends_its_request(after: int) -> None:
    async def leave() -> bool:
        engine = Engine(*spoken())
        response = EventStream(await begun(engine, stream=True))
        sent = 0
        gone = asyncio.Event()

        async def send(message: Any) -> None:
            nonlocal sent
            sent += 1
            if sent > after:
                gone.set()
                await asyncio.sleep(10)

        async def receive() -> Any:
            await gone.wait()
            return {"type": "http.disconnect"}

        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        while chat_completion._LEAVING:
            await asyncio.sleep(0)
        return engine.ended

    assert asyncio.run(leave())


def test_who_leaves_before_the_answer_ends_its_request() -> None:
    async def leave() -> bool:
        engine = Engine(*spoken())
        completion = await begun(engine)
        completion.leave()
        completion.leave()
        while chat_completion._LEAVING:
            await asyncio.sleep(0)
        return engine.ended

    assert asyncio.run(leave())


# -- the route -------------------------------------------------------------------------------------


def request(method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """The answer of an application with the route, and with the server's form of errors."""
    from fastapi import FastAPI
    from higgs_patches.patches.error_format import with_errors

    async def original(request: Any, raw_request: Any) -> Any:
        """Answers chats."""

    app = with_errors(lambda _: FastAPI())(None)
    app.post("/chat")(chat.create_chat_completion(original))
    app.state.openai_serving_chat = app.state.voice_presets = None
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1]",
        b'"x"',
        b"{",
        b'{"a": "\xff"}',
        b'{"a": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"messages": [], "temperature": NaN}',
        b'{"model": "\\ud800", "messages": []}',
    ],
)
def test_any_body_that_is_no_request_is_400(body: bytes) -> None:
    status, answer = request("POST", "/chat", body)
    assert status == 400
    assert json.loads(answer)["error"]["message"]
    assert len(answer) < 2000


def test_the_route_is_documented() -> None:
    _, answer = request("GET", "/openapi.json")
    route = json.loads(answer)["paths"]["/chat"]["post"]
    schema = route["requestBody"]["content"]["application/json"]["schema"]
    assert json.dumps(chat.EXAMPLE) in json.dumps(schema)
    read(chat.EXAMPLE)
