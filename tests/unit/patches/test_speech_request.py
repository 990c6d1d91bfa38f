"""What a speech request may hold, and how long its answer may get."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest
from higgs_patches.lib.errors import describe_errors
from higgs_patches.lib.speech_length import default_max_tokens, spoken_seconds
from higgs_patches.lib.speech_request import SpeechRequest

GOOD: dict[str, Any] = {"model": "m", "input": "Hello.", "voice": "belinda"}

ENGLISH = "The train to the coast leaves at noon, so pack your bag and meet me by the clock."
CHINESE = "今天下午我们一起去海边散步吧"


def problem(body: dict[str, Any] | str) -> str:
    """What is wrong with a body: the field, and the words for it."""
    with pytest.raises(pydantic.ValidationError) as caught:
        if isinstance(body, str):
            SpeechRequest.model_validate(json.loads(body))
        else:
            SpeechRequest.model_validate(GOOD | body)
    [error] = caught.value.errors()
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"


def test_least_request_has_the_formats_default_of_openai_and_the_rest_of_before() -> None:
    request = SpeechRequest.model_validate(GOOD)
    assert (request.response_format, request.speed, request.stream) == ("mp3", 1.0, True)
    assert (request.temperature, request.top_p, request.top_k) == (1.0, 0.95, 50)
    assert request.seed is request.max_tokens is None


def test_unknown_fields_and_nulls_are_ignored() -> None:
    fields: dict[str, object] = dict.fromkeys(("speed", "seed", "response_format"))
    fields |= {"user": "x", "stop": []}
    assert SpeechRequest.model_validate(GOOD | fields) == SpeechRequest.model_validate(GOOD)


@pytest.mark.parametrize("voice", ["belinda", {"id": "belinda"}, {"id": "belinda", "x": 1}])
def test_voice_is_a_name_or_an_object_with_one(voice: Any) -> None:
    assert SpeechRequest.model_validate(GOOD | {"voice": voice}).voice == "belinda"


@pytest.mark.parametrize("voice", [{}, {"name": "belinda"}, {"id": 3}, {"id": None}, ["x"], 3])
def test_other_voices_are_refused(voice: Any) -> None:
    assert problem({"voice": voice}).startswith("voice: Input should be a valid string")


@pytest.mark.parametrize("field", GOOD)
def test_what_is_needed_is_named(field: str) -> None:
    assert problem({field: None}) == f"{field}: Field required"


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u200b\ufeff", "\x00\x1b", "\u3000"])
def test_blank_input_is_refused(text: str) -> None:
    assert "nothing to speak" in problem({"input": text})


@pytest.mark.parametrize("text", ["a", "?", "你", "😀", " a ", "1"])
def test_short_input_is_taken_as_it_is(text: str) -> None:
    assert SpeechRequest.model_validate(GOOD | {"input": text}).input == text


@pytest.mark.parametrize("field", ["input", "instructions"])
def test_the_limit_of_texts_is_told(field: str) -> None:
    assert len(getattr(SpeechRequest.model_validate(GOOD | {field: "x" * 4096}), field)) == 4096
    wrong = problem({field: "x" * 4097})
    assert "4097 characters" in wrong
    assert "at most 4096" in wrong


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("speed", [0.25, 1, 4, "2"], [0.24, 4.01, 0, -1, "fast", [1], True and "x"]),
        ("temperature", [0, 0.5, 2], [-0.1, 2.1]),
        ("top_p", [0.001, 1], [0, 1.1, -1]),
        ("top_k", [-1, 0, 1, 1_000_000], [-2, 1_000_001, 1.5]),
        ("seed", [0, -1, 2**63 - 1, -(2**63)], [2**63, -(2**63) - 1, 1.5, 10**400]),
        ("max_tokens", [9, 1_000_000], [8, 0, -1, 10**30]),
        ("audio_chunk_size", [1, 250], [0, -1, 251]),
        ("audio_chunk_overlap_size", [0, 250], [-1, 251]),
        ("ras_win_len", [0, 250], [-1, 251]),
        ("ras_win_max_num_repeat", [1, 250], [0, 251]),
        ("response_format", ["pcm", "wav", "mp3", "flac", "opus", "aac"], ["ogg", "WAV", "", 1]),
        ("stream", [True, False], ["maybe", 7]),
        ("stream_format", ["audio", "sse"], ["json"]),
        ("instructions", ["", "whisper"], [1, ["x"]]),
    ],
)
def test_bounds(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        SpeechRequest.model_validate(GOOD | {field: value})
    for value in bad:
        assert problem({field: value}).startswith(f"{field}: "), value


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["speed", "temperature", "top_p", "top_k", "seed", "max_tokens"])
def test_no_number_that_is_none(field: str, number: str) -> None:
    wrong = problem(f'{{"model": "m", "input": "x", "voice": "v", "{field}": {number}}}')
    assert wrong.startswith(f"{field}: ")


def test_events_are_a_stream() -> None:
    assert "leave out 'stream': false" in problem({"stream": False, "stream_format": "sse"})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (ENGLISH, (5.0, 7.5)),
        (CHINESE, (2.5, 3.7)),
        ("", (0, 0)),
        ("1234567890", (3, 5)),
        ("Привет, как дела?", (1.0, 1.6)),
        ("안녕하세요", (1.0, 1.3)),
    ],
)
def test_estimate_of_normal_speech(text: str, seconds: tuple[float, float]) -> None:
    assert seconds[0] <= spoken_seconds(text) <= seconds[1]


def test_default_of_max_tokens_has_a_margin_and_an_end() -> None:
    assert 4 * 25 < default_max_tokens("Hi.") < 7 * 25
    for text in (ENGLISH, CHINESE, "1 2 3", "a " * 2000):
        normal = spoken_seconds(text) * 25
        assert 2 * normal + 100 < default_max_tokens(text) < 3 * normal + 150
    assert default_max_tokens(ENGLISH, factor=5) > 1.5 * default_max_tokens(ENGLISH)


def test_default_of_max_tokens_is_one_that_a_request_may_have() -> None:
    for text in ("a", "1" * 4096, "汉" * 4096):
        SpeechRequest.model_validate(GOOD | {"max_tokens": default_max_tokens(text)})


@pytest.mark.parametrize(
    "text", ["\u2800", "\u3164 \u3164", "\u0301\u0301", "\u200b", "\uffa0", "\u2063", "\ue000"]
)
def test_text_that_cannot_be_heard_is_refused(text: str) -> None:
    assert "nothing to speak" in problem({"input": text})


@pytest.mark.parametrize("text", ["a", "é", "e\u0301", "今", "7", "한", "!"])
def test_text_that_can_be_heard_is_taken(text: str) -> None:
    SpeechRequest.model_validate(GOOD | {"input": text})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"references": [{"audio": "x"}]}, "references"),
        ({"speaker_wav": "x.wav"}, "speaker_wav"),
        ({"reference_id": "x"}, "reference_id"),
        ({"prompt_audio": "x"}, "prompt_audio"),
        ({"ref_text": "words"}, "ref_text"),
        ({"ref_audio": "UklG"}, "ref_text"),
        ({"ref_audio": "UklG", "ref_text": " "}, "ref_text"),
    ],
)
def test_another_voice_is_never_ignored(fields: dict[str, Any], param: str) -> None:
    """The answer would have the wrong voice, and nothing would say so."""
    with pytest.raises(pydantic.ValidationError) as caught:
        SpeechRequest.model_validate(GOOD | fields)
    message, found = describe_errors(caught.value.errors())
    assert found == param
    assert message.startswith(param)
    SpeechRequest.model_validate(GOOD | dict.fromkeys(fields))


def test_a_recording_takes_the_place_of_a_voice() -> None:
    body = {name: value for name, value in GOOD.items() if name != "voice"}
    SpeechRequest.model_validate(body | {"ref_audio": "UklG", "ref_text": "Words."})
