"""Fields of a speech request.

They are those of OpenAI's /v1/audio/speech, those that this server's fork had added, and

    stream          false: the whole file at once, with its length in header and Content-Length
    seed            the same request and seed give the same bytes on an otherwise idle server
    ras_win_len, ras_win_max_num_repeat
                    repetition-aware sampling: window in frames (0: off) and most repeats in it

Without `max_tokens` the answer is bounded by the length of the text (`default_max_tokens`), so that
a model that misses its end stops after a few seconds and not at the end of its context.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from higgs_patches.lib.request_fields import RequestFields, voice_name
from higgs_patches.lib.speech_length import FEWEST_TOKENS, is_blank
from higgs_patches.patch_settings import MAX_INPUT_CHARACTERS as LONGEST_INPUT

MAX_INPUT_CHARACTERS = LONGEST_INPUT.read()


class SpeechRequest(RequestFields):
    """The body of POST /v1/audio/speech."""

    model: str
    """The model's name, one of those at /v1/models."""

    input: str
    """The text to speak: not blank, and at most `MAX_INPUT_CHARACTERS` long."""

    voice: Annotated[str, BeforeValidator(voice_name)]
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
    """sse: as server-sent events, each with a chunk of the file in base64."""

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
    """Frames (25 a second) in a chunk of the stream; the first chunks are shorter."""

    audio_chunk_overlap_size: int | None = Field(None, ge=0, le=250)
    """Frames on either side that a chunk is decoded with; few give early chunks, with seams."""

    ras_win_len: int | None = Field(None, ge=0, le=250)
    """Frames in which a code may not come back too often; 0 for no such limit."""

    ras_win_max_num_repeat: int | None = Field(None, ge=1, le=250)
    """How often a code may stand in that window."""

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
