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

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, field_validator, model_validator

from higgs_patches.lib.errors import RefusedError
from higgs_patches.lib.request_fields import RequestFields, voice_name
from higgs_patches.lib.speech_length import FEWEST_TOKENS, is_blank
from higgs_patches.lib.voice_fields import refuse_other_voices
from higgs_patches.patch_settings import DEFAULT_RESPONSE_FORMAT
from higgs_patches.patch_settings import MAX_INPUT_CHARACTERS as LONGEST_INPUT

MAX_INPUT_CHARACTERS = LONGEST_INPUT.read()

AudioFormat = Literal["pcm", "wav", "mp3", "flac", "opus", "aac"]

DEFAULT_FORMAT = cast(AudioFormat, DEFAULT_RESPONSE_FORMAT.read())


class SpeechRequest(RequestFields):
    """The body of POST /v1/audio/speech."""

    model: str
    """The model's name, one of those at /v1/models."""

    input: str
    """The text to speak: not blank, and at most `MAX_INPUT_CHARACTERS` long."""

    voice: Annotated[str, BeforeValidator(voice_name)]
    """A voice of /v1/audio/voices, or another name for one; also as {"id": name}."""

    ref_audio: str | None = None
    """A recording of another voice to speak with: base64, a data: URL, or an allowed https: URL."""

    ref_text: str | None = None
    """What is said in `ref_audio`."""

    instructions: str | None = None
    """Describes the scene: where it is recorded, who speaks and how."""

    response_format: AudioFormat = DEFAULT_FORMAT
    """The format of the file. OpenAI's default is mp3, which clients such as Open WebUI rely on."""

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

    @model_validator(mode="before")
    @classmethod
    def _no_other_voice(cls, data: Any) -> Any:
        """Refuse to answer with another voice than the one that is asked for."""
        if not isinstance(data, dict):
            return data
        refuse_other_voices(
            data,
            cls.model_fields,
            "name a voice, or send its recording as ref_audio and what is said in it as ref_text",
        )
        if not data.get("ref_audio"):
            if data.get("ref_text"):
                raise RefusedError("comes without the recording, ref_audio", "ref_text")
            return data
        text = data.get("ref_text")
        if not isinstance(text, str) or is_blank(text):
            raise RefusedError("is missing: send what is said in ref_audio", "ref_text")
        return {**data, "voice": data.get("voice") or "ref_audio"}

    @field_validator("input")
    @classmethod
    def _speakable(cls, text: str) -> str:
        if is_blank(text):
            raise ValueError("the text is empty; there is nothing to speak")
        return text

    @field_validator("input", "instructions", "ref_text")
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
