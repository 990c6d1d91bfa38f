"""Fields of a chat completion request, with their limits.

Everything that goes on to the engine is listed here; an unknown field is ignored, as OpenAI's
clients expect, and a null is the same as an absent field. What cannot work on this model is refused
with a reason: the model gives a pair of logits, for text and for audio, so guided decoding and
logprobs would end the engine, and tools need guided decoding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from higgs_patches.lib.chat_messages import Messages, audio_parts, texts
from higgs_patches.lib.errors import RefusedError, describe_errors, shown
from higgs_patches.lib.request_fields import (
    Flag,
    RequestFields,
    Text,
    expected,
    number,
    voice_name,
    whole_number,
)
from higgs_patches.lib.special_tokens import INSTRUCTION_TOKENS, SCENE_TOKENS
from higgs_patches.lib.voice_fields import refuse_other_voices

MAX_CHOICES = 8
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
"""Characters; streamed text is held back by as many."""

MAX_CHUNK_FRAMES = 250
"""Frames of a chunk of streamed audio: 10 s."""

# Known fields that cannot work here: the values that are harmless all the same, and what to do.
_GUIDED = "this model has no guided decoding"
_FIXED_PROMPT = "the prompt has the form that the model was trained with"
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
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


_VOICE = "name a voice as audio.voice, or send its recording as an assistant's input_audio"


class AudioOptions(RequestFields):
    """How audio is answered."""

    voice: Annotated[Text, BeforeValidator(voice_name)] = None
    format: Annotated[
        Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"] | None,
        expected("one of wav, mp3, flac, opus, aac, pcm16"),
    ] = None
    audio_chunk_size: Annotated[int | None, whole_number(1, MAX_CHUNK_FRAMES)] = None

    @model_validator(mode="before")
    @classmethod
    def _no_other_voice(cls, data: Any) -> Any:
        if isinstance(data, dict):
            refuse_other_voices(data, cls.model_fields, _VOICE)
        return data


class StreamOptions(RequestFields):
    """What a stream holds beside the answer."""

    include_usage: Flag = False


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
_Token = Annotated[int, Field(strict=True, ge=0, lt=2**31)]


class ChatBody(RequestFields):
    """The body of POST /v1/chat/completions."""

    messages: Messages = Field(None, validate_default=True)  # None: missing
    model: Text = None
    stream: Flag = False
    stream_options: StreamOptions = StreamOptions()
    modalities: Annotated[
        Annotated[list[Literal["text", "audio"]], Field(min_length=1)] | None,
        expected("['text'], ['audio'] or ['text', 'audio']"),
    ] = None
    audio: AudioOptions = AudioOptions()
    n: Annotated[int, whole_number(1, MAX_CHOICES)] = 1
    # The engine knows the length of the prompt, and refuses what does not fit beside it.
    max_completion_tokens: Annotated[int | None, whole_number(1, 1_000_000)] = None
    max_tokens: Annotated[int | None, whole_number(1, 1_000_000)] = None
    stop: Annotated[
        Annotated[list[_Stop], Field(max_length=MAX_STOPS), BeforeValidator(_as_list)],
        expected(f"a text or at most {MAX_STOPS} texts of 1 to {MAX_STOP_LENGTH} characters each"),
    ] = Field(default_factory=list)
    stop_token_ids: Annotated[
        list[_Token], Field(max_length=MAX_STOPS), expected(f"a list of at most {MAX_STOPS} tokens")
    ] = Field(default_factory=list)
    # What follows goes to the engine by its name in vLLM's SamplingParams.
    temperature: Annotated[float | None, number(0, 2)] = None
    top_p: Annotated[float | None, number(0.001, 1)] = None
    min_p: Annotated[float | None, number(0, 1)] = None
    frequency_penalty: Annotated[float | None, number(-2, 2)] = None
    presence_penalty: Annotated[float | None, number(-2, 2)] = None
    repetition_penalty: Annotated[float | None, number(0.01, 2)] = None
    seed: Annotated[int | None, whole_number(-(2**63), 2**63 - 1)] = None
    top_k: Annotated[int | None, whole_number(-1, 1_000_000)] = None
    min_tokens: Annotated[int | None, whole_number(0, 1_000_000)] = None
    ignore_eos: Flag = False
    include_stop_str_in_output: Flag = False
    skip_special_tokens: Flag = True
    # Repetition-aware sampling, by the names of the model's reference engine (see repetition.py).
    ras_win_len: Annotated[int | None, whole_number(0, 250)] = None
    ras_win_max_num_repeat: Annotated[int | None, whole_number(1, 250)] = None

    @model_validator(mode="before")
    @classmethod
    def _only_supported(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise RefusedError(f"is {shown(data)}; expected a JSON object")
        for name, (harmless, reason) in UNSUPPORTED.items():
            value = data.get(name)
            if value is None or value in harmless:
                continue
            if name == "tools" and data.get("tool_choice") == "none":
                continue
            raise RefusedError(f"is not supported: {reason}", name)
        refuse_other_voices(data, {*cls.model_fields, *UNSUPPORTED}, _VOICE)
        return data

    @model_validator(mode="after")
    def _streamable(self) -> ChatBody:
        if self.stream and self.audio.format not in (None, "pcm16"):
            raise RefusedError(
                f"is {shown(self.audio.format)}; expected 'pcm16' in a stream", "audio.format"
            )
        return self


_SAMPLING = (
    *("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty"),
    *("repetition_penalty", "seed", "top_k", "min_tokens", "ignore_eos"),
    *("include_stop_str_in_output", "skip_special_tokens"),
)
_REPETITION = ("ras_win_len", "ras_win_max_num_repeat")


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion request that has been checked.

    Attributes:
        messages: role and content of each; the content is a text or a list of text parts and
            audio_url parts. Texts are as the client wrote them: special tokens are still in them.
        model: the name that the client gave, if any.
        audio: True if audio is asked for, False if only text is, None if the model may choose.
        text: whether text may come too.
        audio_format: of a whole answer; pcm16 in a stream.
        voice: the name of a voice that the client gave, if any.
        chunk_frames: frames of audio (25 a second) in a chunk of a stream, if the client said so.
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
        return bool(audio_parts(self.messages))


def _wants_audio(modalities: list[Any] | None, messages: list[dict[str, Any]]) -> bool | None:
    """Return whether audio is asked for, by modalities or as the model's examples do: in words."""
    if modalities is not None:
        return "audio" in modalities
    by_role = [(message["role"], " ".join(texts(message["content"]))) for message in messages]
    if any(INSTRUCTION_TOKENS[0] in text for _, text in by_role):
        return None
    system = " ".join(text for role, text in by_role if role == "system").casefold()
    return True if "generate audio" in system or SCENE_TOKENS[0] in system else None


def read(body: object) -> ChatRequest:
    """Return what a chat completion request asks for.

    Args:
        body: the decoded JSON of the request.

    Raises:
        RefusedError: it cannot be served; the text names the field, its value and what is possible.
    """
    try:
        fields = ChatBody.model_validate(body)
    except ValidationError as error:
        raise RefusedError(*describe_errors(error.errors())) from None
    given = {name: getattr(fields, name) for name in fields.model_fields_set}
    if given.get("top_k") == 0:
        del given["top_k"]  # 0 is how others write "all", the default
    modalities = fields.modalities
    messages = cast(list[dict[str, Any]], fields.messages)  # see ChatMessage.plain
    return ChatRequest(
        messages=messages,
        model=fields.model,
        stream=fields.stream,
        include_usage=fields.stream_options.include_usage,
        audio=_wants_audio(modalities, messages),
        text=modalities is None or "text" in modalities,
        audio_format=fields.audio.format or ("pcm16" if fields.stream else "wav"),
        voice=fields.audio.voice,
        chunk_frames=fields.audio.audio_chunk_size,
        n=fields.n,
        max_tokens=fields.max_completion_tokens or fields.max_tokens,
        stop=fields.stop,
        stop_token_ids=fields.stop_token_ids,
        sampling={name: given[name] for name in _SAMPLING if name in given},
        repetition={name: given[name] for name in _REPETITION if name in given},
    )
