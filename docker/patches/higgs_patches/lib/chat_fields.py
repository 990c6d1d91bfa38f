"""Reads a chat completion request: what is wanted, or which field is wrong and what it may be.

Everything that goes on to the engine is listed here, with its limits; a field that is not known is
ignored, as OpenAI's clients expect, and so reaches nothing. Refused with a reason is what cannot
work on this model: it gives a pair of logits, for text and for audio, so that guided decoding and
logprobs end the engine, and tools need guided decoding.
"""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

_T = TypeVar("_T")

ROLES = ("system", "developer", "user", "assistant")
AUDIO_FORMATS = ("wav", "mp3", "flac", "opus", "aac", "pcm16")
MODALITIES = ("text", "audio")

MAX_CHOICES = 8
MAX_MESSAGES = 1000
MAX_TEXT = 200_000  # characters of all messages: several times what any context can hold
MAX_STOPS = 16
MAX_STOP_LENGTH = 256  # characters; streamed text is held back by as many
MAX_CHUNK_FRAMES = 250  # 10 s of audio

_SEEDS = (-(2**63), 2**63 - 1)

# Sampling parameters that go to the engine: lowest and highest value.
_NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0.001, 1),
    "min_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "repetition_penalty": (0.01, 2),
}
_WHOLE_NUMBERS: dict[str, tuple[int, int]] = {
    "seed": _SEEDS,
    "top_k": (-1, 1_000_000),
    "min_tokens": (0, 1_000_000),
}
# Repetition-aware sampling, by the names of the model's reference engine (see repetition.py).
_REPETITION: dict[str, tuple[int, int]] = {
    "ras_win_len": (0, 250),
    "ras_win_max_num_repeat": (1, 250),
}
_FLAGS = ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens")

# Known fields that cannot work here: the values that are harmless all the same, and what to do.
_GUIDED = "this model has no guided decoding"
_FIXED_PROMPT = "the prompt has the form that the model was trained with"
_UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "response_format": (({"type": "text"},), _GUIDED + ": only {'type': 'text'} is possible"),
    "guided_json": ((), _GUIDED),
    "guided_regex": (("",), _GUIDED),
    "guided_choice": (([],), _GUIDED),
    "guided_grammar": (("",), _GUIDED),
    "guided_whitespace_pattern": (("",), _GUIDED),
    "structured_outputs": (({},), _GUIDED),
    "tools": (([],), "this model cannot call tools"),
    "functions": (([],), "this model cannot call functions"),
    "logprobs": ((False, 0), "this model gives no logprobs"),
    "top_logprobs": ((0,), "this model gives no logprobs"),
    "prompt_logprobs": ((0, False), "this model gives no logprobs"),
    "use_beam_search": ((False,), "this server has no beam search"),
    "best_of": ((1, 0), "ask for several answers by 'n'"),
    "logit_bias": (({},), "this server does not bias tokens"),
    "logits_processors": (([],), "a request cannot bring code"),
    "chat_template": (("",), _FIXED_PROMPT),
    "chat_template_kwargs": (({},), _FIXED_PROMPT),
    "documents": (([],), _FIXED_PROMPT + ": put documents into a message"),
    "mm_processor_kwargs": (({},), _FIXED_PROMPT),
    "truncate_prompt_tokens": ((), "shorten the messages instead"),
    "continue_final_message": ((False,), _FIXED_PROMPT),
    "add_generation_prompt": ((True,), _FIXED_PROMPT),
    "add_special_tokens": ((False,), _FIXED_PROMPT),
    "echo": ((False,), "the answer holds what the model said"),
    "priority": ((0,), "all requests have the same priority"),
}


class Refused(ValueError):
    """A request that cannot be served; the text is for the client.

    Attributes:
        param: the field that is wrong, in OpenAI's notation ("messages[0].role").
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion request that has been checked.

    Attributes:
        messages: role and content of each; the content is a text or a list of text parts and
            audio_url parts. Texts are as the client wrote them: not yet clean.
        model: the name that the client gave, if any.
        audio: True if audio is asked for, False if only text is, None if the model may choose.
        text: whether text may come too.
        audio_format: one of AUDIO_FORMATS; pcm16 in a stream.
        voice: the name of a voice that the client gave, if any.
        chunk_frames: frames of audio (25 a second) in a piece of a stream, if the client said so.
        n: how many answers.
        max_tokens: the longest answer, if the client said so.
        stop: texts that end the answer.
        stop_token_ids: tokens that end the answer.
        sampling: other sampling parameters, by their names in vLLM's SamplingParams.
        repetition: settings of repetition-aware sampling, by the names of their fields.
    """

    messages: list[dict[str, Any]]
    model: str | None = None
    stream: bool = False
    include_usage: bool = False
    audio: bool | None = None
    text: bool = True
    audio_format: str = "wav"
    voice: str | None = None
    chunk_frames: int | None = None
    n: int = 1
    max_tokens: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    sampling: dict[str, Any] = field(default_factory=dict)
    repetition: dict[str, int] = field(default_factory=dict)

    @property
    def has_reference_audio(self) -> bool:
        """Whether a message brings audio."""
        return bool(_audio_parts(self.messages))


def read(body: object) -> ChatRequest:
    """What a chat completion request asks for.

    Args:
        body: the decoded JSON of the request.

    Raises:
        Refused: it cannot be served; the text names the field, its value and what is possible.
    """
    if not isinstance(body, dict):
        raise Refused(f"the request is {shown(body)}; it has to be a JSON object")
    body = {name: value for name, value in body.items() if value is not None}
    for name, (harmless, reason) in _UNSUPPORTED.items():
        if name in body and body[name] not in harmless:
            if name == "tools" and body.get("tool_choice") == "none":
                continue
            raise Refused(f"{name} is not supported: {reason}", name)
    stream = _flag(body, "stream")
    audio = _mapping(body, "audio")
    modalities = _modalities(body)
    return ChatRequest(
        messages=_messages(body),
        model=_text(body, "model"),
        stream=stream,
        include_usage=_flag(_mapping(body, "stream_options"), "include_usage", "stream_options."),
        audio=None if modalities is None else "audio" in modalities,
        text=modalities is None or "text" in modalities,
        audio_format=_audio_format(audio, stream),
        voice=_voice(audio),
        chunk_frames=_whole(audio, "audio_chunk_size", 1, MAX_CHUNK_FRAMES, "audio."),
        n=_whole(body, "n", 1, MAX_CHOICES) or 1,
        max_tokens=_max_tokens(body),
        stop=_stop(body),
        stop_token_ids=_stop_token_ids(body),
        sampling=_sampling(body),
        repetition=_given(
            {name: _whole(body, name, *limits) for name, limits in _REPETITION.items()}
        ),
    )


def shown(value: object) -> str:
    """A short form of any value, for a message."""
    return _REPR.repr(value)


_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


# -- plain fields ----------------------------------------------------------------------------------


def _flag(body: Mapping[str, Any], name: str, within: str = "") -> bool:
    value = body.get(name, False)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise Refused(
            f"{within}{name} is {shown(value)}; it has to be true or false", within + name
        )
    return value


def _text(body: Mapping[str, Any], name: str, within: str = "") -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise Refused(f"{within}{name} is {shown(value)}; it has to be a text", within + name)
    return value


def _mapping(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name, {})
    if not isinstance(value, dict):
        raise Refused(f"{name} is {shown(value)}; it has to be an object", name)
    return value


def _number(body: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refused(
            f"{name} is {shown(value)}; it has to be a number from {low:g} to {high:g}", name
        )
    return float(value)


def _whole(body: Mapping[str, Any], name: str, low: int, high: int, within: str = "") -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refused(
            f"{within}{name} is {shown(value)}; it has to be a whole number from {low} to {high}",
            within + name,
        )
    return value


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: _number(body, name, *limits) for name, limits in _NUMBERS.items()}
    whole_numbers = {name: _whole(body, name, *limits) for name, limits in _WHOLE_NUMBERS.items()}
    whole_numbers["top_k"] = whole_numbers["top_k"] or None  # 0 is how others write "all"
    flags = {name: _flag(body, name) for name in _FLAGS if name in body}
    return {**_given(numbers), **_given(whole_numbers), **flags}


def _given(values: Mapping[str, _T | None]) -> dict[str, _T]:
    return {name: value for name, value in values.items() if value is not None}


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    # The engine knows the length of the prompt, and refuses what does not fit beside it.
    limits = {
        name: _whole(body, name, 1, 1_000_000) for name in ("max_completion_tokens", "max_tokens")
    }
    return next((value for value in limits.values() if value is not None), None)


def _stop(body: Mapping[str, Any]) -> list[str]:
    value = body.get("stop", [])
    stops = [value] if isinstance(value, str) else value
    if not (
        isinstance(stops, list)
        and len(stops) <= MAX_STOPS
        and all(isinstance(text, str) and 0 < len(text) <= MAX_STOP_LENGTH for text in stops)
    ):
        raise Refused(
            f"stop is {shown(value)}; it has to be a text or a list of at most {MAX_STOPS} texts,"
            f" of 1 to {MAX_STOP_LENGTH} characters each",
            "stop",
        )
    return list(stops)


def _stop_token_ids(body: Mapping[str, Any]) -> list[int]:
    value = body.get("stop_token_ids", [])
    if not (
        isinstance(value, list)
        and len(value) <= MAX_STOPS
        and all(type(number) is int and 0 <= number < 2**31 for number in value)
    ):
        raise Refused(
            f"stop_token_ids is {shown(value)}; it has to be a list of at most {MAX_STOPS} tokens",
            "stop_token_ids",
        )
    return list(value)


def _modalities(body: Mapping[str, Any]) -> list[str] | None:
    value = body.get("modalities")
    if value is None:
        return None
    if not isinstance(value, list) or not value or any(name not in MODALITIES for name in value):
        raise Refused(
            f"modalities is {shown(value)}; it has to be ['text'], ['audio'] or ['text', 'audio']",
            "modalities",
        )
    return value


def _voice(audio: Mapping[str, Any]) -> str | None:
    value = audio.get("voice")
    if isinstance(value, dict) and "id" in value:  # OpenAI's newer form
        value = value["id"]
    return _text({"voice": value}, "voice", "audio.")


def _audio_format(audio: Mapping[str, Any], stream: bool) -> str:
    value = audio.get("format")
    if value is None:
        return "pcm16" if stream else "wav"
    if value not in AUDIO_FORMATS:
        raise Refused(
            f"audio.format is {shown(value)}; it has to be one of {', '.join(AUDIO_FORMATS)}",
            "audio.format",
        )
    if stream and value != "pcm16":
        raise Refused(
            f"audio.format is {shown(value)}; in a stream it has to be 'pcm16'", "audio.format"
        )
    return str(value)


# -- messages --------------------------------------------------------------------------------------


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    value = body.get("messages")
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise Refused(
            f"messages is {shown(value)}; it has to be a list of 1 to {MAX_MESSAGES} messages",
            "messages",
        )
    messages = [_message(message, f"messages[{place}]") for place, message in enumerate(value)]
    every = [text for message in messages for text in texts(message["content"])]
    if (length := sum(map(len, every))) > MAX_TEXT:
        raise Refused(
            f"messages have {length} characters of text; {MAX_TEXT} are possible", "messages"
        )
    if not any(text.strip() for text in every) and not _audio_parts(messages):
        raise Refused("messages hold no text: there is nothing to say", "messages")
    return messages


def _audio_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return [part for content in contents for part in content if part["type"] == "audio_url"]


def texts(content: str | list[dict[str, Any]]) -> list[str]:
    """The texts of a message's content."""
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content if part["type"] == "text"]


def _message(message: object, name: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise Refused(f"{name} is {shown(message)}; it has to be an object", name)
    role = message.get("role")
    if role not in ROLES:
        raise Refused(
            f"{name}.role is {shown(role)}; it has to be one of {', '.join(ROLES)}", f"{name}.role"
        )
    if message.get("tool_calls") or message.get("function_call"):
        raise Refused(f"{name}.tool_calls is not supported: this model cannot call tools", name)
    if message.get("audio"):
        raise Refused(
            f"{name}.audio refers to an earlier answer, which this server does not keep:"
            " send the audio itself, as an input_audio part of the message's content",
            f"{name}.audio",
        )
    return {
        "role": "system" if role == "developer" else role,
        "content": _content(message.get("content"), f"{name}.content"),
    }


def _content(value: object, name: str) -> str | list[dict[str, Any]]:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise Refused(f"{name} is {shown(value)}; it has to be a text or a list of parts", name)
    return [_part(part, f"{name}[{place}]") for place, part in enumerate(value)]


def _part(part: object, name: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise Refused(f"{name} is {shown(part)}; it has to be an object with a type", name)
    kind = part.get("type")
    if kind in ("text", "refusal"):
        text = part.get(kind)
        if not isinstance(text, str):
            raise Refused(f"{name}.{kind} is {shown(text)}; it has to be a text", f"{name}.{kind}")
        return {"type": "text", "text": text}
    if kind == "input_audio":
        sound = part.get("input_audio")
        data = sound.get("data") if isinstance(sound, dict) else None
        if not isinstance(data, str) or not data:
            raise Refused(
                f"{name}.input_audio is {shown(sound)};"
                " it has to be {'data': an audio file in base64, 'format': 'wav'}",
                f"{name}.input_audio",
            )
        return {"type": "audio_url", "audio_url": {"url": f"data:audio/any;base64,{data}"}}
    if kind == "audio_url":
        link = part.get("audio_url")
        url = link.get("url") if isinstance(link, dict) else link
        if not isinstance(url, str) or not url:
            raise Refused(
                f"{name}.audio_url is {shown(link)}; it has to be {{'url': a URL}}",
                f"{name}.audio_url",
            )
        return {"type": "audio_url", "audio_url": {"url": url}}
    raise Refused(
        f"{name}.type is {shown(kind)}; it has to be text, input_audio or audio_url", f"{name}.type"
    )
