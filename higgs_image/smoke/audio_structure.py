"""Prove that an answer is exactly one file of its format.

Players and decoders forgive what users then trip over: several files joined together, a length in
the header that is not the real one, JSON behind the last frame. So the structure is walked here.
"""

from __future__ import annotations

import struct

from higgs_image.audio import SAMPLE_RATE

UNKNOWN = 0xFFFFFFFF
"""Size in the header of a WAV file that was sent before its length was known."""


class BadAudioError(Exception):
    """The answer is not one whole file of its format; the message says why."""


def check_pcm(data: bytes) -> None:
    """Raise BadAudioError unless this is raw samples alone."""
    for magic in (b"RIFF", b"ID3", b"fLaC", b"OggS", b'{"'):
        if data.startswith(magic):
            raise BadAudioError(f"expected samples at the beginning, got {magic!r}")
    if b'{"error' in data[-4000:] or b'{"object"' in data[-4000:]:
        raise BadAudioError("it ends with JSON")
    if len(data) % 2:
        raise BadAudioError(f"{len(data)} bytes are not a whole number of samples")


def wav_data_start(data: bytes) -> int:
    """Walk a WAV file and return the position of its samples."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise BadAudioError(f"expected a RIFF and WAVE header, got {data[:4]!r}")
    (size,) = struct.unpack_from("<I", data, 4)
    if size not in (UNKNOWN, len(data) - 8):
        raise BadAudioError(f"its header says {size + 8} bytes, it has {len(data)}")
    place, form = 12, None
    while place + 8 <= len(data):
        chunk, length = struct.unpack_from("<4sI", data, place)
        place += 8
        if chunk == b"fmt ":
            form = struct.unpack_from("<HHIIHH", data, place)
        if chunk == b"data":
            rest = len(data) - place
            if length != rest and not (length == UNKNOWN and size == UNKNOWN):
                raise BadAudioError(f"its header says {length} bytes of samples, it has {rest}")
            if form is None:
                raise BadAudioError("its samples come before their format")
            if form != (1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16):
                raise BadAudioError(
                    f"expected 1 channel of 16 bits at {SAMPLE_RATE} Hz, "
                    f"got {form[1]} of {form[5]} bits at {form[2]} Hz"
                )
            return place
        place += length + length % 2
    raise BadAudioError("it has a header, but no samples")


def check_wav(data: bytes) -> None:
    """Raise BadAudioError unless this is one WAV file of the expected kind."""
    start = wav_data_start(data)
    if (count := data.count(b"WAVEfmt ")) > 1:
        raise BadAudioError(f"it is {count} WAV files, one after the other")
    if start == len(data):
        raise BadAudioError("it has a header, but no samples")
    if (len(data) - start) % 2:
        raise BadAudioError(f"{len(data) - start} bytes are not a whole number of samples")


_MP3_KBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""Bit rates of MPEG 2 layer III, the version for 24 kHz."""


def check_mp3(data: bytes) -> None:
    """Raise BadAudioError unless this is one MP3 file at 24 kHz."""
    place = 0
    if data[:3] == b"ID3":
        size = data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9]
        place = 10 + size
    frames = 0
    while place < len(data):
        if data[place : place + 3] == b"TAG" and len(data) - place == 128:
            break
        head = data[place : place + 4]
        if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
            raise BadAudioError(f"expected a frame or the end after {frames} frames, got {head!r}")
        version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
        bits, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
        if (version, layer, rate) != (2, 1, 1) or not 0 < bits < 15:
            raise BadAudioError(
                f"frame {frames} is not MPEG 2 layer III at {SAMPLE_RATE} Hz: {head.hex()}"
            )
        place += 72_000 * _MP3_KBITS[bits] // SAMPLE_RATE + padding
        frames += 1
    if not frames:
        raise BadAudioError("it has no frames")
    if place > len(data):
        raise BadAudioError("its last frame is not whole")


def check_flac(data: bytes) -> None:
    """Raise BadAudioError unless this is one FLAC file of 16 bits."""
    if not data.startswith(b"fLaC"):
        raise BadAudioError(f"expected fLaC at the beginning, got {data[:4]!r}")
    if len(data) < 42:
        raise BadAudioError("its header is not whole")
    if (bits := (data[20] << 4 & 16 | data[21] >> 4) + 1) != 16:
        raise BadAudioError(f"expected samples of 16 bits, got {bits}")
    # The fixed beginning of the only STREAMINFO block; compressed sound practically never has it.
    if (count := data.count(b"fLaC" + data[4:8])) > 1:
        raise BadAudioError(f"it is {count} FLAC files, one after the other")


def flac_length(data: bytes) -> int:
    """Return the number of samples in the header; 0: it was sent before that was known."""
    return int.from_bytes(data[21:26], "big") & (1 << 36) - 1


def check_ogg(data: bytes) -> None:
    """Raise BadAudioError unless this is one whole Ogg stream."""
    place, flags, serials = 0, 0, set()
    while place < len(data):
        if data[place : place + 4] != b"OggS" or len(data) - place < 27:
            raise BadAudioError(
                f"expected an Ogg page at byte {place}, got {data[place : place + 4]!r}"
            )
        flags, serial, segments = data[place + 5], data[place + 14 : place + 18], data[place + 26]
        if flags & 2:
            serials.add((place, serial))
        place += 27 + segments + sum(data[place + 27 : place + 27 + segments])
    if len(serials) != 1:
        raise BadAudioError(f"expected one beginning of a stream, got {len(serials)}")
    if place > len(data):
        raise BadAudioError("its last page is not whole")
    if not flags & 4:
        raise BadAudioError("its last page is not marked as the end")


def check_aac(data: bytes) -> None:
    """Raise BadAudioError unless this is one ADTS file at 24 kHz."""
    place = frames = 0
    while place < len(data):
        head = data[place : place + 7]
        if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
            raise BadAudioError(f"expected a frame or the end after {frames} frames, got {head!r}")
        if (rate := head[2] >> 2 & 15) != 6:
            raise BadAudioError(
                f"expected sampling frequency 6 (24 kHz) in frame {frames}, got {rate}"
            )
        place += (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        frames += 1
    if place > len(data):
        raise BadAudioError("its last frame is not whole")
