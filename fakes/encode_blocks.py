"""Print the blocks of MP3, AAC and Opus that the fake fork repeats (files.py), as base64.

    .venv/bin/python fakes/encode_blocks.py

A whole number of periods of a tone fills each block, so that it can be repeated; its loudness is
that of the fake fork's other formats.
"""

from __future__ import annotations

import base64
import io
import textwrap

import av
import numpy as np

RATE = 24_000
LOUDNESS = 0.08
"""Root mean square of a full scale of 1."""


def packets(
    form: str, codec: str, rate: int, hertz: float, bit_rate: int, **options: str
) -> list[bytes]:
    """Encode three seconds of a tone and return the packets."""
    samples = np.sin(2 * np.pi * hertz * np.arange(3 * rate) / rate) * LOUDNESS * np.sqrt(2)
    with av.open(io.BytesIO(), "w", format=form) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono", options=options)
        stream.bit_rate = bit_rate
        context = stream.codec_context
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], "flt", "mono")
        frame.sample_rate = rate
        context.open()
        size = context.frame_size
        resampler = av.AudioResampler(context.format, "mono", rate, frame_size=size)
        parts = [*resampler.resample(frame), *resampler.resample(None)]
        return [bytes(x) for part in [*parts, None] for x in stream.encode(part)]


def adts(packet: bytes) -> bytes:
    """Return an AAC packet with the header that an ADTS file has before each."""
    size = len(packet) + 7
    return (
        bytes((0xFF, 0xF1, 0x58, 0x40 | size >> 11, size >> 3 & 0xFF, (size & 7) << 5 | 0x1F, 0xFC))
        + packet
    )


def main() -> None:
    """Print a block of each."""
    blocks = {
        "MP3": packets("mp3", "libmp3lame", RATE, 500, 32_000, reservoir="0")[40],
        "AAC": adts(packets("adts", "aac", RATE, 468.75, 32_000)[40]),
        "OPUS": packets("ogg", "libopus", 48_000, 500, 16_000, vbr="off")[60],
    }
    for name, block in blocks.items():
        print(name, *textwrap.wrap(base64.b64encode(block).decode(), 94), sep="\n    ")


if __name__ == "__main__":
    main()
