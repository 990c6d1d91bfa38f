"""What was measured of one request."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from higgs_image.bench.exchange import Exchange
from higgs_image.bench.failure import FailedAnswerError, Failure
from higgs_image.bench.player import play
from higgs_image.smoke.limits import expected_seconds

FIRST_SOUND = 0.1
"""Seconds of sound that have to be there before anything counts as heard."""

TOO_SHORT = 0.35
"""Share of the expected length below which speech is too short."""

Floats = npt.NDArray[np.float64]


class RequestResult(msgspec.Struct, frozen=True):
    """One request; times are in seconds from when it was sent, unless they say otherwise.

    Attributes:
        index: within its level; with the seed it gives text and voice.
        size: of the text.
        language: of the text.
        voice: by name.
        start_s: when it was sent, from the start of the measured time.
        counted: it belongs to the measured time.
        total_s: until the end of the answer, or until it failed.
        headers_s: until the headers had arrived.
        first_byte_s: until the first byte of sound.
        first_sound_s: until 0.1 s of sound could be played.
        audio_s: length of the sound.
        rtf: total_s / audio_s.
        longest_gap_s: between two arrivals.
        underruns: how often the simulated player ran dry.
        stalled_s: silence that this made.
        failure: its class; None: it succeeded.
        detail: of the failure.
        arrivals: seconds until each part of the sound; float32 as bytes.
        playable: seconds of sound that had arrived by then; likewise.
    """

    index: int
    size: str
    language: str
    voice: str
    start_s: float
    counted: bool
    total_s: float
    headers_s: float = 0.0
    first_byte_s: float = 0.0
    first_sound_s: float = 0.0
    audio_s: float = 0.0
    rtf: float = 0.0
    longest_gap_s: float = 0.0
    underruns: int = 0
    stalled_s: float = 0.0
    failure: Failure | None = None
    detail: str = ""
    arrivals: bytes = b""
    playable: bytes = b""

    def times(self) -> npt.NDArray[np.float32]:
        """Return when parts of the sound arrived."""
        return np.frombuffer(self.arrivals, np.float32)

    def sound(self) -> npt.NDArray[np.float32]:
        """Return the seconds of sound that had arrived by then."""
        return np.frombuffer(self.playable, np.float32)


def measure(done: Exchange, opens: float, buffer_s: float) -> RequestResult:
    """Return what was measured of a request, after its sound was decoded and played.

    Args:
        done: the request.
        opens: start of the measured time, on the monotonic clock.
        buffer_s: sound that the simulated player buffers.
    """
    spoken = done.item.spoken
    base = RequestResult(
        done.item.index, spoken.size, spoken.language, done.item.voice,
        done.sent - opens, done.counted, done.ended - done.sent,
    )  # fmt: skip
    try:
        if done.failure:
            raise done.failure
        playable = done.recording.playable(np.frombuffer(done.sizes, np.int64))
        audio, expected = float(playable[-1]), expected_seconds(spoken.text)
        if audio < TOO_SHORT * expected:
            detail = f"{audio:.2f} s of sound for a text of about {expected:.1f} s"
            raise FailedAnswerError(Failure.TOO_SHORT, detail)
    except FailedAnswerError as error:
        return msgspec.structs.replace(base, failure=error.failure, detail=error.detail)
    times = np.frombuffer(done.times, np.float64) - done.sent
    heard = play(times, playable, buffer_s)
    return msgspec.structs.replace(
        base,
        headers_s=done.headers - done.sent,
        first_byte_s=_when(times, playable, 1e-6) if done.recording.raw else float(times[0]),
        first_sound_s=_when(times, playable, min(FIRST_SOUND, audio)),
        audio_s=audio,
        rtf=base.total_s / audio,
        longest_gap_s=float(np.diff(times).max(initial=0.0)),
        underruns=heard.underruns,
        stalled_s=heard.stalled_s,
        arrivals=times.astype(np.float32).tobytes(),
        playable=playable.astype(np.float32).tobytes(),
    )


def _when(times: Floats, playable: Floats, seconds: float) -> float:
    """Return when that much sound had arrived."""
    return float(times[np.searchsorted(playable, seconds - 1e-9)])
