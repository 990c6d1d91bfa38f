"""Joins the pieces of a recording: every spoken sample stays as it is, only silence is shortened.

Where a piece ends and the next one begins, the silence between them is what the model made, within
the bounds of a pause. It is cut, or made longer, where the sound crosses zero: so the step at a
seam is not larger than those within speech, and the level of the speech is not touched.
"""

from __future__ import annotations

import numpy as np
from higgs_patches.lib.audio import SAMPLE_RATE
from numpy.typing import NDArray

Samples = NDArray[np.int16]

LOUD = 260
"""Samples beyond it are sound: -42 dB of full scale, above the codec's noise."""
FRAME = SAMPLE_RATE // 100
"""Samples in the frames by which sound and silence are told apart: 10 ms."""
MARGIN = 5 * FRAME
"""Silence next to sound that is never cut: soft beginnings and ends of words."""
SENTENCE = (SAMPLE_RATE * 15 // 100, SAMPLE_RATE * 7 // 10)
PARAGRAPH = (SAMPLE_RATE * 4 // 10, SAMPLE_RATE * 12 // 10)
"""Shortest and longest pause between two pieces, in samples."""
LONGEST_HELD = 4 * SAMPLE_RATE
"""Silence that is held back until it is known what follows; more is passed on."""
EDGE = 2 * FRAME
"""How far from its end a piece that ends in sound is searched for a zero crossing."""


class Joiner:
    """Takes the sound of the pieces in order, in chunks of any size, and gives the joined sound.

    What it gives does not depend on the sizes of the chunks.
    """

    def __init__(self) -> None:
        self._head = False
        self._pause = SENTENCE
        self._tail = _EMPTY
        self._held = _EMPTY  # begins at a whole frame of its piece
        self._odd = b""

    def feed(self, pcm: bytes) -> bytes:
        """Take a chunk of the current piece; return the sound that is certain."""
        pcm = self._odd + pcm
        even = len(pcm) & ~1
        self._odd = pcm[even:]
        self._held = np.concatenate((self._held, np.frombuffer(pcm[:even], "<i2")))
        loud = _loud_frames(self._held)
        seam = _EMPTY
        if self._head:
            if not len(loud) or _whole(self._held) < (begin := int(loud[0]) * FRAME + EDGE):
                if not len(loud):
                    self._held = self._held[max(0, _whole(self._held) - LONGEST_HELD) :]
                return b""
            seam = self._seam(self._held[:begin])
            self._held = self._held[begin:]
            self._head = False
            loud = _loud_frames(self._held)
        whole = _whole(self._held)
        end = (int(loud[-1]) + 1) * FRAME if len(loud) else 0
        if end == whole:  # it may be the end of the piece
            end = max(0, whole - EDGE)
        end = max(end, whole - LONGEST_HELD)
        sound, self._held = self._held[:end], self._held[end:]
        return seam.tobytes() + sound.tobytes()

    def end_piece(self, *, paragraph: bool) -> None:
        """End the current piece; another one follows, after a pause of sentences or paragraphs."""
        # A piece without sound only makes the pause before it longer.
        silent = np.concatenate((self._tail, self._held)) if self._head else self._held
        self._tail, self._held, self._odd = silent[:LONGEST_HELD], _EMPTY, b""
        self._pause = PARAGRAPH if paragraph else SENTENCE
        self._head = True

    def finish(self) -> bytes:
        """Return what is left at the end of the recording."""
        left = self._seam(self._held) if self._head else self._held
        return left.tobytes()

    def _seam(self, head: Samples) -> Samples:
        """Return what is between the sound of two pieces, from the end of one and before the next.

        Both touch sound at their outer ends, which stay; the middle is cut or filled.
        """
        tail, self._tail = self._tail, _EMPTY
        shortest, longest = self._pause
        loud = _loud_frames(tail)
        end = (int(loud[-1]) + 1) * FRAME if len(loud) else 0  # a piece may end in sound
        begin = max(0, len(head) - EDGE)  # where the sound of the next piece begins
        after, before = len(tail) - end, begin
        if after + before > longest:
            after = min(after, max(longest - min(before, longest // 2), MARGIN))
            before = min(before, max(longest - after, MARGIN))
        filling = max(0, shortest - after - before)
        tail = _until_crossing(tail[: end + after])
        head = _until_crossing(head[begin - before :][::-1])[::-1]
        return np.concatenate((tail, np.zeros(filling, "<i2"), head))


_EMPTY: Samples = np.zeros(0, "<i2")


def _whole(samples: Samples) -> int:
    return len(samples) // FRAME * FRAME


def _loud_frames(samples: Samples) -> NDArray[np.intp]:
    """Return the numbers of the whole frames that hold sound."""
    frames = samples[: _whole(samples)].astype(np.int32).reshape(-1, FRAME)
    return np.flatnonzero(np.abs(frames).max(axis=1, initial=0) > LOUD)


def _until_crossing(samples: Samples) -> Samples:
    """Return the samples up to the last zero crossing; without one near the end, faded to zero."""
    last = samples[-EDGE:]
    signs = np.signbit(last)
    crossings = np.flatnonzero((last[:-1] == 0) | (signs[1:] != signs[:-1]))
    if len(crossings):
        return samples[: len(samples) - len(last) + int(crossings[-1]) + 1]
    faded = (last * np.linspace(1, 0, len(last))).astype("<i2")
    return np.concatenate((samples[: len(samples) - len(last)], faded))


def joined(pieces: list[bytes], *, paragraph: bool = False) -> bytes:
    """Return the joined sound of whole pieces."""
    joiner = Joiner()
    parts = []
    for number, piece in enumerate(pieces):
        if number:
            joiner.end_piece(paragraph=paragraph)
        parts.append(joiner.feed(piece))
    return b"".join([*parts, joiner.finish()])
