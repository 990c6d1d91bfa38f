"""Makes sound. As in the real submodule this folder has no __init__.py: an install would drop it.

Standard library only.
"""

from __future__ import annotations

import io
import struct
import wave

RATE = 24_000
"""Samples per second, as the real server has them."""

_FREQUENCY, _AMPLITUDE, _FADE = 440, 8_000, 240


def samples_of(text: str) -> int:
    """Return how many samples a text is spoken in: 60 ms a character, at least 0.3 s."""
    return max(RATE * 3 // 10, len(text) * RATE * 6 // 100)


def speak(text: str) -> bytes:
    """Return a tone as one WAV file: mono, 16 bits, its length depends on the text.

    A triangle wave in whole numbers: the same bytes on every machine.
    """
    count, period = samples_of(text), RATE // _FREQUENCY
    levels = [abs(4 * phase - 2 * period) - period for phase in range(period)]  # -period ... period
    samples = [_AMPLITUDE * level // period for level in levels] * (count // period + 1)
    for index in range(_FADE):
        for edge in (index, count - 1 - index):  # in and out, without a click
            samples[edge] = samples[edge] * index // _FADE
    frames = struct.pack(f"<{count}h", *samples[:count])
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(frames)
    return file.getvalue()
