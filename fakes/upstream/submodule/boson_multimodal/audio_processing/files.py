"""Write samples as a file of each audio format of OpenAI's API.

Standard library only, so nothing here can compress, and a text of any length needs a file of its
length. FLAC holds the samples as they are. MP3, AAC and Opus repeat one block of a tone, which
fakes/encode_blocks.py has encoded.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator

RATE = 24_000

_MP3 = base64.b64decode(
    "//NExAAGCDoAAAUuAMIrwYGgeEfcsGGtf7/6////////////9aYgpqKZlxiYGAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)
_AAC = base64.b64decode(
    "//FYQBYf/ADsMRDWdowMgiafGfn/o/6/+f6Hc8uZJIuX9+78AGBgYGN8R4yyCHOxSKYnyRBWMt7DkMD57J+WsPU2BJ4Vn5"
    "LRsWI4/CkqcwjBYSKHtQ66cMcMcMcGdnZ2fHDHDHCmtnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2cyZ2dnZ2dnZ2dnZ2dnZ2e6ub"
    "q5urm6ubq5urlJFJFJFJFJFJFJFJFJFJFJFJFJF5555557g="
)
_OPUS = base64.b64decode("mLBFbiljntKq+IlzMCQp+rPf62qiZwCJS8QNC6UOS3jhTCD/RUtl4Q==")


def mp3(samples: bytes) -> bytes:
    """Return an MP3 file as long as these samples."""
    return _MP3 * _blocks(samples, 576)


def aac(samples: bytes) -> bytes:
    """Return an AAC file (ADTS) as long as these samples."""
    return _AAC * _blocks(samples, 1_024)


def opus(samples: bytes) -> bytes:
    """Return an Ogg Opus file as long as these samples."""
    count = _blocks(samples, 480)
    head = struct.pack("<8sBBHIHB", b"OpusHead", 1, 1, 312, RATE, 0, 0)
    tags = struct.pack("<8sI8sI", b"OpusTags", 8, b"fakefork", 0)
    pages = [_page(0, 2, 0, [head]), _page(1, 0, 0, [tags])]
    for number, first in enumerate(range(0, count, 5), 2):  # 0.1 s in a page
        last = min(first + 5, count)
        pages.append(_page(number, 4 * (last == count), last * 960, [_OPUS] * (last - first)))
    return b"".join(pages)


def flac(samples: bytes) -> bytes:
    """Return a FLAC file of these samples."""
    size = 4_096
    total = len(samples) // 2
    facts = RATE << 44 | 0 << 41 | 15 << 36 | total  # rate, channels - 1, bits - 1, samples
    info = struct.pack(">HH6xQ16x", size, size, facts)
    frames = [
        _frame(number, samples[start : start + 2 * size])
        for number, start in enumerate(range(0, len(samples), 2 * size))
    ]
    return b"fLaC" + struct.pack(">I", 0x8000_0000 | len(info)) + info + b"".join(frames)


def _frame(number: int, samples: bytes) -> bytes:
    """A frame of samples as they are: sync, 16 bit block size, 24 kHz, mono, 16 bits."""
    head = b"\xff\xf8" + bytes((0x77, 0x08)) + chr(number).encode()
    head += struct.pack(">H", len(samples) // 2 - 1)
    swapped = bytearray(len(samples))
    swapped[0::2], swapped[1::2] = samples[1::2], samples[0::2]
    body = head + bytes((_crc(head, 8, 0x07), 0x02)) + bytes(swapped)
    return body + struct.pack(">H", _crc(body, 16, 0x8005))


def _page(number: int, flags: int, position: int, packets: list[bytes]) -> bytes:
    """An Ogg page; every packet is shorter than 255 bytes."""
    head = struct.pack("<4sBBqIII", b"OggS", 0, flags, position, 1, number, 0)
    page = head + bytes((len(packets), *map(len, packets))) + b"".join(packets)
    return page[:22] + struct.pack("<I", _crc(page, 32, 0x04C11DB7)) + page[26:]


def _blocks(samples: bytes, size: int) -> int:
    return -(-len(samples) // 2 // size)


def _table(bits: int, polynomial: int) -> Iterator[int]:
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 else 0)
            value &= (1 << bits) - 1
        yield value


_TABLES: dict[int, list[int]] = {}


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    if polynomial not in _TABLES:
        _TABLES[polynomial] = list(_table(bits, polynomial))
    table = _TABLES[polynomial]
    value, mask = 0, (1 << bits) - 1
    for byte in data:
        value = (value << 8 ^ table[value >> bits - 8 ^ byte]) & mask
    return value


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "pcm": ("audio/pcm", bytes),
    "mp3": ("audio/mpeg", mp3),
    "aac": ("audio/aac", aac),
    "opus": ("audio/ogg", opus),
    "flac": ("audio/flac", flac),
}
"""Content-Type, and what turns samples (mono, 16 bit, 24 kHz) into a file of it."""
