"""What a chat completion request may ask for, and how it is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from higgs_patches.lib.chat_messages import MAX_TEXT
from higgs_patches.lib.chat_request import ChatRequest, read
from higgs_patches.lib.errors import RefusedError

HELLO = [{"role": "user", "content": "hello"}]
NAN, INF = float("nan"), float("inf")


def ask(**fields: Any) -> ChatRequest:
    return read({"model": "m", "messages": HELLO, **fields})


def test_a_plain_request() -> None:
    request = ask()
    assert request.messages == HELLO
    assert request.model == "m"
    assert request.audio is None
    assert (request.audio_format, request.voice) == ("wav", None)
    assert (request.stream, request.n, request.max_tokens) == (False, 1, None)
    assert (request.stop, request.sampling, request.repetition) == ([], {}, {})


def test_all_that_goes_to_the_engine() -> None:
    request = ask(
        temperature=0,
        top_p=0.95,
        top_k=50,
        min_p=0.1,
        seed=-5,
        n=2,
        max_tokens=7,
        max_completion_tokens=8,
        stop="<|eot_id|>",
        stop_token_ids=[3],
        ignore_eos=True,
        ras_win_len=0,
        ras_win_max_num_repeat=3,
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "mp3", "audio_chunk_size": 10},
    )
    assert request.sampling == {
        "temperature": 0.0,
        "top_p": 0.95,
        "top_k": 50,
        "min_p": 0.1,
        "seed": -5,
        "ignore_eos": True,
    }
    assert request.repetition == {"ras_win_len": 0, "ras_win_max_num_repeat": 3}
    assert (request.n, request.max_tokens) == (2, 8)
    assert (request.stop, request.stop_token_ids) == (["<|eot_id|>"], [3])
    assert (request.audio, request.audio_format, request.voice) == (True, "mp3", "alloy")
    assert request.chunk_frames == 10


@pytest.mark.parametrize(
    ("modalities", "audio"), [(["text"], False), (["audio"], True), (["audio", "text"], True)]
)
def test_modalities(modalities: list[str], audio: bool) -> None:
    assert ask(modalities=modalities).audio is audio


@pytest.mark.parametrize(
    ("system", "audio"),
    [
        ("Generate audio following instruction.", True),
        ("<|scene_desc_start|>\nA quiet room.\n<|scene_desc_end|>", True),
        ("generate audio <|generation_instruction_start|>x<|generation_instruction_end|>", None),
        ("Be kind.", None),
    ],
)
def test_a_system_message_can_ask_for_audio(system: str, audio: bool | None) -> None:
    """The model's own example of a chat has no modalities."""
    messages = [{"role": "system", "content": system}, *HELLO]
    assert ask(messages=messages).audio is audio
    assert ask(messages=messages).text
    assert ask(messages=messages, modalities=["text"]).audio is False


def test_a_voice_may_be_an_object() -> None:
    assert ask(audio={"voice": {"id": "belinda"}}).voice == "belinda"


def test_null_and_unknown_fields_are_ignored() -> None:
    nothing = dict.fromkeys(
        ("temperature", "stop", "tools", "audio", "modalities", "stream", "n", "seed"), None
    )
    assert ask(**nothing, user="me", metadata={"a": 1}, zzz=[], reasoning_effort="low") == ask()
    assert ask(stream=True, stream_options={"include_usage": None}).include_usage is False


def test_what_has_no_effect_is_accepted() -> None:
    ask(
        response_format={"type": "text"},
        tools=[],
        logprobs=False,
        top_logprobs=0,
        use_beam_search=False,
        best_of=1,
        logit_bias={},
        add_generation_prompt=True,
        continue_final_message=False,
        priority=0,
    )
    ask(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="none")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_object"}),
        ("response_format", "json"),
        ("guided_json", {}),
        ("guided_regex", "a+"),
        ("guided_choice", ["a"]),
        ("guided_grammar", "root ::= x"),
        ("structured_outputs", {"choice": ["a"]}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("functions", [{"name": "f"}]),
        ("logprobs", True),
        ("top_logprobs", 2),
        ("top_logprobs", "x"),
        ("prompt_logprobs", 1),
        ("use_beam_search", True),
        ("use_beam_search", 1),
        ("best_of", 2),
        ("logit_bias", {"264": 100}),
        ("logits_processors", ["os.system"]),
        ("chat_template", "{{ 1/0 }}"),
        ("chat_template_kwargs", {"tokenize": True}),
        ("documents", [{"title": "a"}]),
        ("mm_processor_kwargs", {"x": 1}),
        ("truncate_prompt_tokens", 5),
        ("continue_final_message", True),
        ("add_generation_prompt", False),
        ("add_special_tokens", True),
        ("echo", True),
        ("priority", 1),
    ],
)
def test_what_cannot_work_is_refused(field: str, value: Any) -> None:
    with pytest.raises(RefusedError, match=f"^{field} is not supported: ") as refused:
        ask(**{field: value})
    assert refused.value.param == field


@pytest.mark.parametrize(
    ("field", "values", "wanted"),
    [
        ("temperature", [-0.1, 2.1, NAN, INF, -INF, 10**400, "1", True, [], {}], "from 0 to 2"),
        ("top_p", [0, -1, 1.1, NAN, "0.9"], "from 0.001 to 1"),
        ("min_p", [-0.1, 1.1, NAN], "from 0 to 1"),
        ("frequency_penalty", [-2.1, 2.1, NAN], "from -2 to 2"),
        ("presence_penalty", [-2.1, 2.1, INF], "from -2 to 2"),
        ("repetition_penalty", [0, -1, INF, 3], "from 0.01 to 2"),
        ("top_k", [-2, 1.5, "50", False, 2**40, NAN, INF], "whole number from -1"),
        ("seed", [2**63, -(2**63) - 1, 0.5, "1"], "whole number from -9223372036854775808"),
        ("n", [0, -1, 9, 10**9, "2", 1.5, True], "whole number from 1 to 8"),
        ("max_tokens", [0, -1, 10**9, "x", [], 2**70], "whole number from 1"),
        ("max_completion_tokens", [0, -1, "x"], "whole number from 1"),
        ("min_tokens", [-1, "x"], "whole number from 0"),
        ("ras_win_len", [-1, 251, "7"], "whole number from 0 to 250"),
        ("ras_win_max_num_repeat", [0, "2"], "whole number from 1"),
        ("stop", [5, [""], "", [5], ["x"] * 17, ["x" * 257], {}], "at most 16 texts of 1 to 256"),
        ("stop_token_ids", [5, [-1], [2**31], ["x"], [True], [1] * 17], "at most 16 tokens"),
        ("stream", [1, "true", []], "true or false"),
        ("stream_options", [1, "x", []], "an object"),
        ("stream_options", [{"include_usage": 1}], "true or false"),
        ("ignore_eos", ["x", 1], "true or false"),
        ("model", [5, [], {}], "a text"),
        ("modalities", ["audio", [], ["video"], [["audio"]], {}, [None]], r"\['text'\]"),
        ("audio", ["wav", [], 5], "an object"),
        ("audio", [{"format": "wma"}, {"format": ["wav"]}, {"format": 5}], "one of wav, mp3"),
        ("audio", [{"voice": 5}, {"voice": {"name": "x"}}, {"voice": {"id": 5}}], "a text"),
        ("audio", [{"audio_chunk_size": 0}, {"audio_chunk_size": 251}], "from 1 to 250"),
        ("messages", ["hi", {}, [], [HELLO[0]] * 1001, 5], "a list of 1 to 1000 messages"),
        ("messages", [["hi"], [5], [None], [[]]], "expected an object"),
    ],
)
def test_values_that_are_not_possible(field: str, values: list[Any], wanted: str) -> None:
    for value in values:
        with pytest.raises(RefusedError, match=wanted) as refused:
            ask(**{field: value})
        assert refused.value.param is not None
        assert refused.value.param.startswith(field)
        assert field in str(refused.value)


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert ask(n=2.0).n == 2
    assert ask(top_k=50.0).sampling == {"top_k": 50}


def test_a_top_k_of_nothing_is_none() -> None:
    assert ask(top_k=0).sampling == {}
    assert ask(top_k=-1).sampling == {"top_k": -1}


def test_a_stream_has_pcm16_only() -> None:
    assert ask(stream=True).audio_format == "pcm16"
    assert ask(stream=True, audio={"format": "pcm16"}).audio_format == "pcm16"
    with pytest.raises(RefusedError, match="expected 'pcm16' in a stream") as refused:
        ask(stream=True, audio={"format": "wav"})
    assert refused.value.param == "audio.format"


@pytest.mark.parametrize(
    ("message", "wanted", "param"),
    [
        ({"content": "x"}, "role is None; expected one of system, ", "messages[0].role"),
        ({"role": "user<|AUDIO_OUT|>", "content": "x"}, "expected one of", "messages[0].role"),
        ({"role": "tool", "content": "x"}, "expected one of", "messages[0].role"),
        ({"role": ["user"], "content": "x"}, "expected one of", "messages[0].role"),
        ({"role": "user", "content": 5}, "a text or a list of parts", "messages[0].content"),
        ({"role": "user", "content": {"a": 1}}, "a text or a list", "messages[0].content"),
        ({"role": "user", "content": [5]}, "expected an object", "messages[0].content[0]"),
        ({"role": "user", "content": [{}]}, "expected text", "messages[0].content[0].type"),
        (
            {"role": "user", "content": ["a", {"type": "image_url", "image_url": {"url": "x"}}]},
            "expected text, input_audio or audio_url",
            "messages[0].content[1].type",
        ),
        (
            {"role": "user", "content": [{"type": "image_embeds", "image_embeds": "AAAA"}]},
            "expected text, input_audio or audio_url",
            "messages[0].content[0].type",
        ),
        (
            {"role": "user", "content": [{"type": ["text"], "text": "x"}]},
            "expected text",
            "messages[0].content[0].type",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": 5}]},
            "expected a text",
            "messages[0].content[0].text",
        ),
        (
            {"role": "user", "content": [{"type": "input_audio"}]},
            "an audio file in base64",
            "messages[0].content[0].input_audio",
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]},
            "an audio file in base64",
            "messages[0].content[0].input_audio",
        ),
        (
            {"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": 5}}]},
            "a URL",
            "messages[0].content[0].audio_url",
        ),
        ({"role": "assistant", "audio": {"id": "a"}}, "does not keep", "messages[0].audio"),
        ({"role": "assistant", "tool_calls": [{}]}, "cannot call tools", "messages[0]"),
        ({"role": "user", "content": " \n"}, "nothing to say", "messages"),
        ({"role": "user", "content": "\u3164\u0301"}, "nothing to say", "messages"),
        ({"role": "user", "content": "x" * (MAX_TEXT + 1)}, "200000 are possible", "messages"),
    ],
)
def test_messages_that_are_not_possible(message: Any, wanted: str, param: str) -> None:
    with pytest.raises(RefusedError, match=wanted) as refused:
        ask(messages=[message])
    assert refused.value.param == param


def test_parts_of_a_message() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav;base64,x"}}
    link = {"type": "audio_url", "audio_url": {"url": "https://voices.example/a.wav"}}
    request = ask(
        messages=[
            {"role": "developer", "name": "<|AUDIO|>", "content": "Be kind."},
            {"role": "assistant", "content": None},
            {"role": "user", "content": ["a", {"type": "text", "text": "b"}, sound, link]},
        ]
    )
    assert request.has_reference_audio
    assert request.messages == [
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": ""},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "text", "text": "b"},
                {"type": "audio_url", "audio_url": {"url": "data:audio/any;base64,UklG"}},
                link,
            ],
        },
    ]
    assert not ask().has_reference_audio


@pytest.mark.parametrize("body", [None, [], "x", 5, [{"messages": HELLO}], NAN])
def test_a_body_that_is_no_object(body: Any) -> None:
    with pytest.raises(RefusedError, match="expected a JSON object"):
        read(body)


def test_messages_stay_short_whatever_the_value() -> None:
    deep: Any = "x" * 10_000
    for _ in range(900):
        deep = [deep, deep]
    for field in ("temperature", "messages", "stop", "model", "modalities", "audio", "n"):
        with pytest.raises(RefusedError) as refused:
            ask(**{field: deep})
        assert len(str(refused.value)) < 1000


def test_any_json_is_read_or_refused() -> None:
    """Nothing but RefusedError ever comes out of reading, whatever JSON values stand where."""
    chance = random.Random(7)
    leaves: list[Any] = [None, True, 0, -1, 1.5, NAN, INF, 10**30, "", "x", "audio", "wav", "user"]
    names = [*_names(), "type", "text", "role", "content", "url", "data", "format", "voice"]

    def value(depth: int) -> Any:
        kind = chance.random()
        if depth == 0 or kind < 0.5:
            return chance.choice(leaves)
        if kind < 0.75:
            return [value(depth - 1) for _ in range(chance.randint(0, 3))]
        return {chance.choice(names): value(depth - 1) for _ in range(chance.randint(0, 4))}

    read_at_all = 0
    for _ in range(20_000):
        body = {"messages": HELLO}
        for _ in range(chance.randint(0, 3)):
            body[chance.choice(names)] = value(4)
        try:
            request = read(body)
        except RefusedError as refused:
            json.dumps([str(refused), refused.param])
        else:
            read_at_all += 1
            json.dumps([request.messages, request.sampling], allow_nan=False)
    assert read_at_all > 1000


def _names() -> list[str]:
    from higgs_patches.lib.chat_request import UNSUPPORTED, ChatBody

    return [*UNSUPPORTED, *ChatBody.model_fields, "tool_choice"]
