"""Fields of a request to POST /generate: the origin's, other servers' names for them, and more."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from higgs_patches.lib.errors import RefusedError, describe_errors
from higgs_patches.lib.request_fields import Flag, RequestFields, expected, number, whole_number
from higgs_patches.lib.speech_length import is_blank
from higgs_patches.lib.speech_request import MAX_INPUT_CHARACTERS
from pydantic import ConfigDict, Field, ValidationError, model_validator

from higgs_generate.speech import Speech

ALIASES = {
    "ref_text": "reference_text",
    "ref_audio": "reference_audio_base64",
    "reference_audio": "reference_audio_base64",
    "max_new_tokens": "max_tokens",
    "scene_prompt": "scene",
    "voice_id": "voice",
    "reference_voice": "voice",
}
"""Names that other Higgs servers have for the fields."""

LONGEST_NAME = 100
"""A shorter `reference_audio_base64` is no recording: another server has a voice's name there."""

FORMATS = ("wav", "pcm", "mp3", "flac", "opus", "aac")
AudioFormat = Literal["wav", "pcm", "mp3", "flac", "opus", "aac"]


def _no_longer_than(longest: int) -> Any:
    return expected(f"a text of at most {longest} characters")


_Name = Annotated[str, Field(strict=True, max_length=200), _no_longer_than(200)]
_URL = Annotated[str, Field(strict=True, max_length=2000), _no_longer_than(2000)]
_Short = Annotated[
    str,
    Field(strict=True, max_length=MAX_INPUT_CHARACTERS),
    _no_longer_than(MAX_INPUT_CHARACTERS),
]
_Format = Annotated[AudioFormat, expected(f"one of {', '.join(FORMATS)}")]
_Context = Annotated[Literal["auto", "previous", "none"], expected("auto, previous or none")]
_Language = Annotated[
    Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?$")],
    expected("a language code such as en or zh"),
]


class GenerateRequest(RequestFields):
    """The body of POST /generate. Unknown fields are ignored, null is the same as absent."""

    model_config = ConfigDict(title="GenerateRequest")

    text: Annotated[str, Field(strict=True), expected("a text")] = Field(
        examples=["Hello there."], description="The text to speak, of any length."
    )
    voice: _Name = Field("", description="A voice of /voices.")
    system_prompt: _Short = Field(
        "", description="The system message. Alone, without a voice, it describes the voice."
    )
    scene: _Short = Field(
        "", description="Where and how it is spoken, such as: quiet room; whispered."
    )
    reference_audio_base64: Annotated[
        str, Field(strict=True), expected("a recording in base64")
    ] = Field("", description="A recording of the voice: WAV, FLAC, Ogg or MP3 in base64.")
    reference_text: _Short = Field(
        "", description="What is said in the recording; the voice is closer with it."
    )
    voice_url: _URL = Field(
        "", description="An https: URL of the recording; only of hosts that the owner allows."
    )
    temperature: Annotated[float, number(0.1, 1.5)] = Field(
        0.5, description="How freely it is spoken: 0.1 to 1.5."
    )
    top_p: Annotated[float, number(0.001, 1.0)] = Field(0.95, description="0.001 to 1.")
    top_k: Annotated[int, whole_number(1, 100)] = Field(50, description="1 to 100.")
    max_tokens: Annotated[int | None, whole_number(256, 8192)] = Field(
        None,
        description="Longest sound of a piece, 25 tokens for a second: 256 to 8192; by default by "
        "the length of the text.",
    )
    seed: Annotated[int | None, whole_number(-(2**63), 2**63 - 1)] = Field(
        None, description="Makes the answer repeatable."
    )
    speed: Annotated[float, number(0.25, 4.0)] = Field(1.0, description="0.25 to 4.")
    response_format: _Format = Field("wav", description=f"One of {', '.join(FORMATS)}.")
    stream: Flag | None = Field(
        None, description="Send the sound while it is made; default: for long texts only."
    )
    long_text: Flag | None = Field(
        None, description="Split the text into pieces; default: by its length."
    )
    context: _Context = Field(
        "auto", description="Which piece comes with the next one of a long text."
    )
    language: _Language = Field(
        "", validate_default=False, description="Of the text; by default its script decides."
    )
    ras_win_len: Annotated[int | None, whole_number(0, 250)] = Field(
        None, description="Repetition-aware sampling: window in frames."
    )
    ras_win_max_num_repeat: Annotated[int | None, whole_number(1, 250)] = Field(
        None, description="Repetition-aware sampling: repeats in the window."
    )

    @model_validator(mode="before")
    @classmethod
    def _by_their_own_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        found = {name: value for name, value in data.items() if value is not None}
        for alias, name in ALIASES.items():
            if alias not in found:
                continue
            value = found.pop(alias)
            if found.setdefault(name, value) != value:
                raise RefusedError(f"is another name for {name}; send one of them", alias)
        return found

    @model_validator(mode="after")
    def _one_voice(self) -> GenerateRequest:
        if is_blank(self.text):
            raise RefusedError("is empty; there is nothing to speak", "text")
        audio = self.reference_audio_base64
        if re.match(r"[a-zA-Z]+://", audio):
            raise RefusedError("is a URL; send it as voice_url", "reference_audio_base64")
        if audio and len(audio) < LONGEST_NAME and not audio.startswith("data:"):
            if self.voice:
                raise RefusedError(_TWO_VOICES, "reference_audio_base64")
            self.voice, self.reference_audio_base64, audio = audio, "", ""
        for name in ("reference_audio_base64", "voice_url"):
            if getattr(self, name) and self.voice:
                raise RefusedError(_TWO_VOICES, name)
        if audio and self.voice_url:
            raise RefusedError(_TWO_VOICES, "voice_url")
        if self.reference_text and not (audio or self.voice_url):
            raise RefusedError(
                "comes without the recording, reference_audio_base64", "reference_text"
            )
        return self

    def speech(self) -> Speech:
        """Return what is to be spoken; a `voice_url` is still to be fetched."""
        names = ("temperature", "top_p", "top_k", "seed", "ras_win_len", "ras_win_max_num_repeat")
        values = {name: getattr(self, name) for name in names}
        return Speech(
            text=self.text,
            voice=self.voice,
            system_prompt=self.system_prompt,
            scene=self.scene,
            reference_audio=self.reference_audio_base64,
            reference_text=self.reference_text,
            sampling={name: value for name, value in values.items() if value is not None},
            max_tokens=self.max_tokens,
            speed=self.speed,
            response_format=self.response_format,
            stream=self.stream,
            long_text=self.long_text,
            language=self.language,
            context=self.context,
        )


_TWO_VOICES = "and another field name two voices; send one of them"


def read(body: bytes | dict[str, Any], max_characters: int) -> GenerateRequest:
    """Read a body of POST /generate.

    Raises:
        RefusedError: a field cannot be used; the error names it.
    """
    try:
        if isinstance(body, bytes):
            request = GenerateRequest.model_validate_json(body)
        else:
            request = GenerateRequest.model_validate(body)
    except ValidationError as error:
        raise RefusedError(*describe_errors(error.errors())) from None
    if len(request.text) > max_characters:
        raise RefusedError(
            f"text has {len(request.text)} characters; at most {max_characters} are possible",
            "text",
        )
    return request
