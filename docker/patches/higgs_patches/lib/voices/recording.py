"""Read a person's recording, and convert it to the WAV file that the codec is given.

Whatever ffmpeg can decode is taken, with any sampling rate and number of channels. It is converted
once, when the voice is loaded, so that no request has to; a WAV file that is right already keeps
every sample.
"""

from __future__ import annotations

import array
import io
import stat
import subprocess
import wave
from pathlib import Path

from higgs_patches.lib.audio import SAMPLE_RATE

LONGEST = 30.0
"""Seconds: the encoder budget of one audio (get_mm_max_tokens_per_item in higgs_audio.py)."""

SHORTEST = 1.0
"""Seconds: less does not carry a voice. The shipped ones last 6 to 20 s."""

SILENT = 104
"""Distance from the mean that no sample of 16 bit exceeds in silence: -50 dB of full scale."""

DECODING_TAKES = 60
"""Seconds after which ffmpeg is ended."""


class VoiceError(ValueError):
    """A voice cannot be used; the text gives the reason and the way out, for the log."""


def read(path: Path) -> bytes:
    """Return a recording as a WAV file: mono, 16 bit, 24 kHz.

    Args:
        path: an audio file.

    Raises:
        VoiceError: it is missing, not decodable, too long, too short or silent.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for ever
            raise VoiceError(f"{path} is not a regular file")
        samples = _decode(path)
    except OSError as error:
        raise VoiceError(f"{error.filename or path}: {error.strerror or error}") from None
    seconds = len(samples) / SAMPLE_RATE
    if seconds > LONGEST:
        raise VoiceError(
            f"{path} is longer than {LONGEST:g} s: cut it (5 to 20 s are best), and its transcript"
        )
    if seconds < SHORTEST:
        raise VoiceError(
            f"{path} lasts {seconds:.2f} s, and {SHORTEST:g} s is the least (5 to 20 s are best)"
        )
    mean = sum(samples) / len(samples)
    if max(max(samples) - mean, mean - min(samples)) < SILENT:
        raise VoiceError(f"{path} is silent (mixed down to one channel)")
    return _wav(samples)


def _decode(path: Path) -> array.array[int]:
    """Return samples, of no more time than is needed to see that it is too long.

    The file is ffmpeg's standard input and it may open no other: a playlist names others.
    """
    command = ["ffmpeg", "-nostdin", "-v", "error", "-protocol_whitelist", "fd", "-fd", "0"]
    command += ["-i", "fd:", "-t", str(LONGEST + 1), "-ac", "1"]
    command += [
        "-af",
        f"aresample={SAMPLE_RATE}:resampler=soxr:precision=20",
    ]  # as librosa resamples
    command += ["-f", "s16le", "pipe:1"]
    try:
        with path.open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, timeout=DECODING_TAKES)
    except subprocess.TimeoutExpired:
        raise VoiceError(f"{path} takes longer than {DECODING_TAKES} s to decode") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise VoiceError(f"{path} cannot be decoded as audio: {said[-1].strip()}")
    return array.array("h", done.stdout)


def _wav(samples: array.array[int]) -> bytes:
    goal = io.BytesIO()
    with wave.open(goal, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())
    return goal.getvalue()
