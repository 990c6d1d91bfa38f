"""Decode the answer to a speech request, in any of the server's formats."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from higgs_image.audio import SAMPLE_RATE
from higgs_image.smoke import audio_structure as structure
from higgs_image.smoke.audio_structure import BadAudioError
from higgs_image.smoke.sound import Sound

if TYPE_CHECKING:
    from av.audio.stream import AudioStream


@dataclass(frozen=True)
class AudioFormat:
    """A format of OpenAI's speech API.

    Attributes:
        types: Content-Types that a client may expect for it.
        check: raises BadAudioError unless bytes are exactly one file of it.
        codec: FFmpeg's name of the codec.
        rate: samples per second that a decoder gives; Opus is always decoded at 48 kHz.
    """

    types: tuple[str, ...]
    check: Callable[[bytes], None]
    codec: str
    rate: int = SAMPLE_RATE


FORMATS = {
    "pcm": AudioFormat(("audio/pcm", "audio/l16"), structure.check_pcm, "pcm_s16le"),
    "wav": AudioFormat(
        ("audio/wav", "audio/x-wav", "audio/wave"), structure.check_wav, "pcm_s16le"
    ),
    "mp3": AudioFormat(("audio/mpeg", "audio/mp3"), structure.check_mp3, "mp3"),
    "flac": AudioFormat(("audio/flac", "audio/x-flac"), structure.check_flac, "flac"),
    "opus": AudioFormat(("audio/ogg", "audio/opus"), structure.check_ogg, "opus", 48_000),
    "aac": AudioFormat(("audio/aac", "audio/aacp"), structure.check_aac, "aac"),
}
"""The formats of the server, by their names in OpenAI's API."""


def read(data: bytes, name: str) -> Sound:
    """Return the sound of an answer that has to be one whole file.

    Args:
        data: the body.
        name: of its format, a key of FORMATS.

    Raises:
        BadAudioError: it is empty, not exactly one file, not mono, has another rate, or cannot be
            decoded.
    """
    if not data:
        raise BadAudioError("it has no bytes")
    form = FORMATS[name]
    form.check(data)
    if name == "pcm":
        return Sound(np.frombuffer(data, "<i2"))
    if name == "wav":
        return Sound(np.frombuffer(data, "<i2", offset=structure.wav_data_start(data)))
    return _decode(data, form)


def _decode(data: bytes, form: AudioFormat) -> Sound:
    def check(stream: AudioStream) -> None:
        require_codec(stream, form)
        if (stream.channels, stream.rate) != (1, form.rate):
            raise BadAudioError(
                f"expected 1 channel at {form.rate} Hz, "
                f"got {stream.channels} channels at {stream.rate} Hz"
            )

    sound = decode(data, check)
    if form.codec == "flac" and structure.flac_length(data) not in (0, len(sound.samples)):
        raise BadAudioError(
            f"its header says {structure.flac_length(data)} samples, it has {len(sound.samples)}"
        )
    return sound


def require_codec(stream: AudioStream, form: AudioFormat) -> None:
    """Raise BadAudioError unless a stream has the codec of a format."""
    codec = stream.codec_context.name.removeprefix("lib").removesuffix("float")
    if codec != form.codec:
        raise BadAudioError(f"expected the codec {form.codec}, got {codec}")


def decode(data: bytes, check: Callable[[AudioStream], None] = lambda _: None) -> Sound:
    """Return the sound of a file of any format and rate, mixed to mono.

    Args:
        data: the file.
        check: raises BadAudioError if its stream is not the expected one.

    Raises:
        BadAudioError: it cannot be decoded, or holds other than one stream.
    """
    import av

    chunks: list[npt.NDArray[np.int16]] = []
    try:
        with av.open(io.BytesIO(data), "r") as file:
            if len(file.streams) != 1:
                raise BadAudioError(f"expected one stream, got {len(file.streams)}")
            stream = file.streams.audio[0]
            check(stream)
            resampler = av.AudioResampler(format="s16", layout="mono")
            for frame in [*file.decode(stream), None]:
                chunks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise BadAudioError(f"it cannot be decoded: {error}") from None
    return Sound(np.concatenate(chunks) if chunks else np.zeros(0, np.int16), stream.rate)
