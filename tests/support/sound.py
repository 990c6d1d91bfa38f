"""Recordings of 16 bits: compared, and encoded."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from higgs_image.audio import SAMPLE_RATE

CODECS = {"mp3": ("libmp3lame", "mp3"), "flac": ("flac", "flac"), "opus": ("libopus", "ogg"),
          "aac": ("aac", "adts")}  # fmt: skip
"""Codec and container of each format."""


def same_sound(one: bytes, other: bytes) -> bool:
    """Return whether two recordings (PCM of 16 bits) differ by rounding at most.

    The codec rounds its last bit otherwise for pieces of other lengths.
    """
    samples = [np.frombuffer(pcm, "<i2").astype(int) for pcm in (one, other)]
    return len(one) == len(other) and bool((abs(samples[0] - samples[1]) <= 1).all())


def encoded(form: str, pcm: bytes) -> bytes:
    """Return PCM as a file of a format."""
    import av

    codec, container = CODECS[form]
    out = io.BytesIO()
    pages = {"page_duration": "40000"} if container == "ogg" else {}
    with av.open(out, "w", format=container, options=pages) as file:
        stream: Any = file.add_stream(codec, rate=SAMPLE_RATE, layout="mono")
        resampler = av.AudioResampler(stream.codec_context.format or "s16", "mono", stream.rate)
        samples = np.frombuffer(pcm, "<i2").reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        fifo = av.AudioFifo()
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            part.pts = None
            fifo.write(part)
        while piece := fifo.read(stream.codec_context.frame_size or 1024, partial=True):
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return out.getvalue()
