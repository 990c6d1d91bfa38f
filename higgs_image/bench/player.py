"""A simulated player: where would a listener hear a gap?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BUFFER_SECONDS = 0.2
"""Sound that is buffered before playing starts, and again after an underrun, by default."""


@dataclass(frozen=True)
class Playback:
    """How a listener heard a stream.

    Attributes:
        started_s: seconds from the request until the sound began.
        underruns: how often it broke off.
        stalled_s: seconds of silence that this made.
    """

    started_s: float
    underruns: int
    stalled_s: float


def play(arrivals: Floats, playable: Floats, buffer_s: float = BUFFER_SECONDS) -> Playback:
    """Play a stream as it arrived.

    Playing starts when the buffer is full or the stream has ended. When nothing is left to play,
    it stops until the buffer is full again, or the stream has ended.

    Args:
        arrivals: seconds from the request at which sound arrived; ascending.
        playable: seconds of sound that had arrived by then.
        buffer_s: seconds of sound that are buffered before playing starts.
    """
    total, last = float(playable[-1]), len(playable) - 1
    place = int(np.searchsorted(playable, min(buffer_s, total) - 1e-9))
    started = float(arrivals[place])
    # While playing, the sound that arrived up to n ends at `shift + playable[n]`.
    shift, underruns, stalled = started, 0, 0.0
    while place < last:
        late = np.flatnonzero(arrivals[place + 1 :] - playable[place:-1] > shift + 1e-9)
        if not len(late):
            break
        dry = place + int(late[0])  # all that had arrived by then was played
        wanted = min(float(playable[dry]) + buffer_s, total)
        place = max(dry + 1, int(np.searchsorted(playable, wanted - 1e-9)))
        place = min(place, last)
        stall = float(arrivals[place]) - (shift + float(playable[dry]))
        underruns, stalled, shift = underruns + 1, stalled + stall, shift + stall
    return Playback(started, underruns, stalled)
