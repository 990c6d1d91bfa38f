"""Reads a person's recording, and turns it into the WAV file that the codec is given.

Whatever libsndfile or ffmpeg can decode is taken, with any sampling rate and number of channels. It
is converted once, when the voice is loaded, so that no request has to.
"""

from __future__ import annotations

import io
import stat
import subprocess
import wave
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE = 24_000
"""Hz: the codec's own sampling rate."""

LONGEST = 30.0
"""Seconds: the encoder budget of one audio (get_mm_max_tokens_per_item in higgs_audio.py)."""

SHORTEST = 1.0
"""Seconds: less does not carry a voice. The shipped ones last 6 to 20 s."""

SILENT = 10 ** (-50 / 20)
"""Peak below which a recording counts as silence: -50 dB of full scale."""

DECODING_TAKES = 60
"""Seconds after which ffmpeg is ended."""


class VoiceRefused(ValueError):
    """A voice cannot be used; the text gives the reason and the way out, for the log."""


def read(path: Path) -> bytes:
    """Return a recording as a WAV file: mono, 16 bit, 24 kHz.

    Args:
        path: an audio file.

    Raises:
        VoiceRefused: it is missing, not decodable, too long, too short or silent.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for ever
            raise VoiceRefused(f"{path} is no regular file")
        with path.open("rb"):
            pass  # libsndfile takes a file without permission for one of an unknown format
        samples, rate = _decode(path)
    except OSError as error:
        raise VoiceRefused(f"{path} cannot be read: {error.strerror or error}") from None
    return _wav(_checked(samples, rate, path))


def _decode(path: Path) -> tuple[NDArray[np.float32], int]:
    """Return samples (frames, channels) and their rate; no more than is needed to see a length."""
    import soundfile

    try:
        return _soundfile(path)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless audio
        reason = str(getattr(error, "error_string", error))
    try:
        return _soundfile(io.BytesIO(_ffmpeg(path)))
    except (soundfile.SoundFileError, subprocess.SubprocessError, FileNotFoundError):
        raise VoiceRefused(f"{path} cannot be decoded as audio: {reason}") from None


def _soundfile(source: Path | io.BytesIO) -> tuple[NDArray[np.float32], int]:
    import soundfile

    with soundfile.SoundFile(source) as file:
        frames = int((LONGEST + 1) * file.samplerate)
        return file.read(frames, dtype="float32", always_2d=True), file.samplerate


def _ffmpeg(path: Path) -> bytes:
    """Return what libsndfile cannot read (AAC, for one: a phone's m4a) as a WAV file."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe"]
    command += ["-i", f"file:{path}", "-t", str(LONGEST + 1), "-vn", "-f", "wav", "pipe:1"]
    return subprocess.run(command, capture_output=True, check=True, timeout=DECODING_TAKES).stdout


def _checked(samples: NDArray[np.float32], rate: int, path: Path) -> NDArray[np.float32]:
    """Return one channel at the codec's rate, within full scale."""
    import librosa
    import numpy as np

    seconds = len(samples) / rate
    if seconds > LONGEST:
        raise VoiceRefused(
            f"{path} is longer than {LONGEST:g} s: cut it (5 to 20 s are best), and its transcript"
        )
    if seconds < SHORTEST:
        raise VoiceRefused(
            f"{path} lasts {seconds:.2f} s, and {SHORTEST:g} s is the least (5 to 20 s are best)"
        )
    mono: NDArray[np.float32] = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise VoiceRefused(f"{path} has samples that are no numbers")
    if np.abs(mono - mono.mean()).max() < SILENT:
        raise VoiceRefused(f"{path} is silent (mixed down to one channel)")
    if rate != RATE:
        mono = librosa.resample(mono, orig_sr=rate, target_sr=RATE)
    return mono / max(1.0, float(np.abs(mono).max()))


def _wav(samples: NDArray[np.float32]) -> bytes:
    import numpy as np

    goal = io.BytesIO()
    with wave.open(goal, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())
    return goal.getvalue()
