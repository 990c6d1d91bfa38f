"""What a speech request may hold, and how long its answer may get.

The fields are those of OpenAI's /v1/audio/speech, those that this server's fork had added, and

    stream          false: the whole file at once, with its length in header and Content-Length
    seed            the same request and seed give the same bytes on an otherwise idle server
    ras_win_len, ras_win_max_num_repeat
                    repetition-aware sampling: window in frames (0: off) and most repeats in it

Unknown fields are ignored, a null is as good as nothing, and a value that cannot be served is
refused with what it may be. Settings, by environment:

    HIGGS_MAX_INPUT_CHARACTERS   longest input and longest instructions (4096, as OpenAI has it)
    HIGGS_MAX_TOKENS_FACTOR      margin of the default of max_tokens over normal speech (2.5)

Without `max_tokens` the answer is bounded by the length of the text (`default_max_tokens`), so that
a model that does not find its end stops after a few seconds and not at the end of its context. A
text that the context cannot hold even if it is spoken fast (`least_tokens`) is refused.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

FRAMES_PER_SECOND = 25
"""Audio frames, each one token, in a second of speech."""

CODEBOOKS = 8
"""Codes of a frame. They come one token after the other, so a first frame takes 9 tokens."""

FEWEST_TOKENS = CODEBOOKS + 1

CHARACTERS_PER_SECOND = 13.0
"""Normal speech of alphabetic scripts: 150 to 180 words a minute are 12 to 15 characters."""

WIDE_CHARACTERS_PER_SECOND = 4.5
"""Normal speech of Chinese, Japanese and Korean, whose characters are syllables: 4 to 5."""

DIGITS_PER_SECOND = 2.5
"""Digits and symbols ($, %, =) are spoken as words."""

HURRIED = 0.75
"""The share of a normal pace's time that the fastest speech takes."""

PAUSE_SECONDS = 4.0
"""Added to every text: the shortest ones come with a breath, a pause, or a laugh."""


def _setting(name: str, default: float, least: float, environ: Mapping[str, str]) -> float:
    text = environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise ValueError(f"{name} has to be a number from {least:g}, not {text!r}")
    return value


MAX_INPUT_CHARACTERS = int(_setting("HIGGS_MAX_INPUT_CHARACTERS", 4096, 1, os.environ))
MAX_TOKENS_FACTOR = _setting("HIGGS_MAX_TOKENS_FACTOR", 2.5, 0.1, os.environ)


def is_blank(text: str) -> bool:
    """Whether a text has nothing but spaces, controls, and characters that are not seen."""
    return all(unicodedata.category(character)[0] in "ZC" for character in text)


def spoken_seconds(text: str) -> float:
    """Return about how long a text takes at a normal pace, without pauses before and after it."""
    seconds = 0.0
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            seconds += 1 / WIDE_CHARACTERS_PER_SECOND
        elif unicodedata.category(character)[0] in "NS":
            seconds += 1 / DIGITS_PER_SECOND
        else:
            seconds += 1 / CHARACTERS_PER_SECOND
    return seconds


def default_max_tokens(text: str, factor: float = MAX_TOKENS_FACTOR) -> int:
    """Return the most tokens that speech of this text may take.

    It is `factor` times what a normal pace needs, and `PAUSE_SECONDS`, so that speech at less than
    half the normal pace is still complete.
    """
    seconds = factor * spoken_seconds(text) + PAUSE_SECONDS
    return FEWEST_TOKENS + math.ceil(seconds * FRAMES_PER_SECOND)


def least_tokens(text: str) -> int:
    """Return the fewest tokens in which the whole text can be spoken."""
    return FEWEST_TOKENS + math.ceil(HURRIED * spoken_seconds(text) * FRAMES_PER_SECOND)


def _voice_name(value: Any) -> Any:
    """Take the name out of OpenAI's newer form of `voice`, {"id": "..."}."""
    return value["id"] if isinstance(value, dict) and "id" in value else value


class SpeechRequest(BaseModel):
    """The body of POST /v1/audio/speech."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())

    model: str
    """The model's name, one of those at /v1/models."""

    input: str
    """The text to speak: not blank, and at most `MAX_INPUT_CHARACTERS` long."""

    voice: Annotated[str, BeforeValidator(_voice_name)]
    """A voice of /v1/audio/voices, or another name for one; also as {"id": name}."""

    instructions: str | None = None
    """Describes the scene: where it is recorded, who speaks and how."""

    response_format: Literal["pcm", "wav", "mp3", "flac", "opus", "aac"] = "mp3"
    """The format of the file. The default is OpenAI's, which clients such as Open WebUI rely on;
    this server's fork answers with pcm, which no player knows what to do with."""

    speed: float = Field(1.0, ge=0.25, le=4.0)
    """How much faster than normal; the voice's pitch stays."""

    stream: bool = True
    """False: answer with the whole file when it is ready, not as it comes."""

    stream_format: Literal["audio", "sse"] = "audio"
    """sse: as server-sent events, each with a piece of the file in base64."""

    temperature: float = Field(1.0, ge=0.0, le=2.0)
    """How freely codes are drawn; 0 always takes the likeliest."""

    top_p: float = Field(0.95, ge=0.001, le=1.0)
    """Codes are drawn from the likeliest ones that make up this probability."""

    top_k: int = Field(50, ge=-1, le=1_000_000)
    """Codes are drawn from this many of the likeliest; 0 or -1 for all."""

    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    """Makes the answer repeatable; -1 is as good as none."""

    max_tokens: int | None = Field(None, ge=FEWEST_TOKENS, le=1_000_000)
    """The longest answer, 25 tokens for a second; without it, see `default_max_tokens`."""

    audio_chunk_size: int | None = Field(None, ge=1, le=250)
    """Frames (25 a second) in a piece of the stream; the first pieces are shorter."""

    audio_chunk_overlap_size: int | None = Field(None, ge=0, le=250)
    """Frames on either side that a piece is decoded with; few of them come earlier, with seams."""

    ras_win_len: int | None = Field(None, ge=0, le=250)
    """Frames in which a code may not come back too often; 0 for no such limit."""

    ras_win_max_num_repeat: int | None = Field(None, ge=1, le=250)
    """How often a code may stand in that window."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data

    @field_validator("input")
    @classmethod
    def _speakable(cls, text: str) -> str:
        if is_blank(text):
            raise ValueError("the text is empty; there is nothing to speak")
        return text

    @field_validator("input", "instructions")
    @classmethod
    def _not_too_long(cls, text: str) -> str:
        if len(text) > MAX_INPUT_CHARACTERS:
            raise ValueError(
                f"the text has {len(text)} characters, and this server takes at most "
                f"{MAX_INPUT_CHARACTERS}; send it in parts"
            )
        return text

    @model_validator(mode="after")
    def _streamable(self) -> SpeechRequest:
        if self.stream_format == "sse" and not self.stream:
            raise ValueError("stream_format 'sse' is a stream: leave out 'stream': false")
        return self
