"""Decode reference audio within limits."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from higgs_patches.lib.audio import SAMPLE_RATE
from higgs_patches.patch_settings import MAX_REFERENCE_SECONDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_SECONDS = 0.1
"""The shortest reference audio: the codec cannot encode less."""

MIN_RATE, MAX_RATE = 4_000, 384_000
MAX_CHANNELS = 8

_BLOCK = 65_536  # samples of a channel that are decoded at a time
_FORMATS = {"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3"}  # as libsndfile names them
_MAGIC = re.compile(rb"RIFF|RF64|fLaC|OggS|ID3|\xff[\xe0-\xff]")

MAX_REFERENCE_SECONDS.read()  # a bad value stops the server at its start


def decode(data: bytes) -> tuple[NDArray[np.float32], int]:
    """Return the samples of an audio file, one channel within -1 and 1, and SAMPLE_RATE.

    Raises:
        ValueError: not WAV, FLAC, Ogg or MP3, damaged, too long or too short, or with samples
            that are not finite.
    """
    import numpy as np
    import soundfile
    import soxr

    if not _MAGIC.match(data):
        raise ValueError("the audio is neither WAV, FLAC, Ogg nor MP3")
    longest = MAX_REFERENCE_SECONDS.read()
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels = file.samplerate, file.channels
            if file.format not in _FORMATS:
                raise ValueError(f"the audio is {file.format}; expected WAV, FLAC, Ogg or MP3")
            if not MIN_RATE <= rate <= MAX_RATE:
                raise ValueError(
                    f"the audio has a rate of {rate} Hz; {MIN_RATE} to {MAX_RATE} Hz are possible"
                )
            if channels > MAX_CHANNELS:
                raise ValueError(f"the audio has {channels} channels; {MAX_CHANNELS} are possible")
            blocks = []
            frames = 0
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
                frames += len(block)
                if frames > longest * rate:
                    raise ValueError(
                        f"the audio is longer than {longest:g} s (HIGGS_MAX_REFERENCE_SECONDS)"
                    )
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", type(error).__name__)
        raise ValueError(f"the audio cannot be decoded: {reason}") from None
    if frames < MIN_SECONDS * rate:
        raise ValueError(f"the audio lasts {frames / rate:.3f} s; {MIN_SECONDS:g} s are the least")
    samples = np.concatenate(blocks)
    if not np.isfinite(samples).all():
        raise ValueError("the audio has samples that are not finite numbers")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return np.clip(samples, -1, 1, dtype=np.float32), SAMPLE_RATE
