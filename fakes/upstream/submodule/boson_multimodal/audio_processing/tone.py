"""Makes sound. As in the real submodule this folder has no __init__.py: an install would drop it.

Standard library only.
"""

from __future__ import annotations

import io
import random
import struct
import wave

RATE = 24_000
"""Samples per second, as the real server has them."""
FRAME = RATE // 25
"""Samples of a frame of the codec."""

_TONE, _NOISE, _FADE = 1_600, 18, 240


def samples_of(text: str) -> int:
    """Return how many samples a text is spoken in: 0.4 s, and 1 s for each 15 bytes."""
    return round(25 * (0.4 + len(text.encode()) / 15)) * FRAME


def speak(text: str, voice: str = "") -> bytes:
    """Return noise as one WAV file: mono, 16 bits, its length depends on the text.

    It is as loud as the real server on the CPU device, and has a like spectrum: a tone of 8 kHz in
    noise. Each text and each voice has its own noise, the same bytes on every machine.
    """
    count = samples_of(text)
    noise = random.Random(f"{voice}: {text}").randbytes(RATE)  # noqa: S311 (not for secrets)
    second = [_TONE * (2, -1, -1)[i % 3] + _NOISE * (x - 128) for i, x in enumerate(noise)]
    samples: list[int] = []
    while len(samples) < count:  # each second has the noise at another place
        start = 3 * (len(samples) // RATE * 997 % (RATE // 3))
        samples += second[start:] + second[:start]
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
