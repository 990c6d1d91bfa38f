"""What a speech answer is: exactly one file of its format, and the sound in it.

The files' structure is walked here, as players and decoders forgive what users then trip over:
several files glued together, a length in the header that is not the real one. The sound itself is
decoded by FFmpeg's libraries (PyAV).
"""

from __future__ import annotations

import io
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass

RATE = 24_000
"""Samples per second of every format."""

UNKNOWN = 0xFFFFFFFF
"""Size in the header of a WAV file that was sent before its length was known."""

FULL_SCALE = 32_768
SILENCE = FULL_SCALE // 100
"""Level below which a piece of sound counts as silent: -40 dB of full scale, root mean square."""
WINDOW = RATE // 20
"""Samples of such a piece: 50 ms."""


class BadSound(Exception):
    """The answer is not what its format or a listener asks for; the text says in what."""


@dataclass(frozen=True)
class Format:
    """A format of OpenAI's speech API.

    Attributes:
        types: Content-Types that a client may expect for it.
        walk: goes through a file and raises BadSound unless it is exactly one.
        codec: FFmpeg's name for its codec.
        rate: samples per second that a decoder gives; Opus is always decoded at 48 kHz.
    """

    types: tuple[str, ...]
    walk: Callable[[bytes], None]
    codec: str
    rate: int = RATE


@dataclass(frozen=True)
class Sound:
    """Decoded sound.

    Attributes:
        samples: mono, 16 bit.
        rate: samples per second.
    """

    samples: array[int]
    rate: int = RATE

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / self.rate

    @property
    def peak(self) -> float:
        """Its largest sample, of a full scale of 1."""
        return max((abs(x) for x in self.samples), default=0) / FULL_SCALE

    @property
    def loudness(self) -> float:
        """Root mean square, of a full scale of 1."""
        return _rms(self.samples) / FULL_SCALE

    @property
    def clipped(self) -> float:
        """Share of its samples that lie at the limits of 16 bits."""
        at_limit = sum(1 for x in self.samples if x >= 32_767 or x <= -32_768)
        return at_limit / max(len(self.samples), 1)

    @property
    def longest_silence(self) -> float:
        """Length of its longest silent stretch within, in seconds; not the one at the end."""
        quiet = self._quiet()
        while quiet and quiet[-1]:
            quiet.pop()
        longest = current = 0
        for silent in quiet:
            current = current + 1 if silent else 0
            longest = max(longest, current)
        return longest * WINDOW / RATE

    @property
    def silence_at_end(self) -> float:
        """Length of the silence that it ends with, in seconds."""
        count = 0
        for silent in reversed(self._quiet()):
            if not silent:
                break
            count += 1
        return count * WINDOW / RATE

    def _quiet(self) -> list[bool]:
        size = self.rate // 20
        return [
            _rms(self.samples[start : start + size]) < SILENCE
            for start in range(0, len(self.samples), size)
        ]


def _rms(samples: array[int]) -> float:
    return float((sum(x * x for x in samples) / max(len(samples), 1)) ** 0.5)


def read(data: bytes, name: str) -> Sound:
    """Return the sound of an answer that has to be one whole file.

    Args:
        data: the body.
        name: its format, one of FORMATS.

    Raises:
        BadSound: it is empty, more or less than one file, of another rate or not mono, or it
            cannot be decoded.
    """
    if not data:
        raise BadSound("it has no bytes")
    form = FORMATS[name]
    form.walk(data)
    if name == "pcm":
        return Sound(_samples(data))
    if name == "wav":
        return Sound(_samples(data[_wav_data(data) :]))
    return _decode(data, form)


def _samples(data: bytes) -> array[int]:
    samples = array("h")
    samples.frombytes(data)
    return samples


def _decode(data: bytes, form: Format) -> Sound:
    import av

    samples = array("h")
    try:
        with av.open(io.BytesIO(data), "r") as file:
            if len(file.streams) != 1:
                raise BadSound(f"it has {len(file.streams)} streams")
            stream = file.streams.audio[0]
            found = (stream.codec_context.name, stream.channels, stream.rate)
            if found[0].removeprefix("lib").removesuffix("float") != form.codec:
                raise BadSound(f"its codec is {found[0]}, wanted is {form.codec}")
            if found[1:] != (1, form.rate):
                raise BadSound(
                    f"it has {found[1]} channels at {found[2]} Hz, wanted are 1 at {form.rate}"
                )
            resampler = av.AudioResampler(format="s16", layout="mono")
            for frame in [*file.decode(stream), None]:
                for piece in resampler.resample(frame):
                    samples.frombytes(bytes(piece.planes[0])[: 2 * piece.samples])
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise BadSound(f"it cannot be decoded: {error}") from None
    if form.codec == "flac" and _flac_length(data) not in (0, len(samples)):
        raise BadSound(f"its header says {_flac_length(data)} samples, it has {len(samples)}")
    return Sound(samples, form.rate)


def _walk_pcm(data: bytes) -> None:
    for magic in (b"RIFF", b"ID3", b"fLaC", b"OggS", b'{"'):
        if data.startswith(magic):
            raise BadSound(f"it begins with {magic!r} instead of samples")
    if b'{"error' in data[-4000:] or b'{"object"' in data[-4000:]:
        raise BadSound("it ends with JSON")
    if len(data) % 2:
        raise BadSound(f"{len(data)} bytes are no whole number of samples")


def _wav_data(data: bytes) -> int:
    """Walk a WAV file and return where its samples begin."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise BadSound(f"it begins with {data[:4]!r} instead of RIFF and WAVE")
    (size,) = struct.unpack_from("<I", data, 4)
    if size not in (UNKNOWN, len(data) - 8):
        raise BadSound(f"its header says {size + 8} bytes, it has {len(data)}")
    place, form = 12, None
    while place + 8 <= len(data):
        chunk, length = struct.unpack_from("<4sI", data, place)
        place += 8
        if chunk == b"fmt ":
            form = struct.unpack_from("<HHIIHH", data, place)
        if chunk == b"data":
            rest = len(data) - place
            if length != rest and not (length == UNKNOWN and size == UNKNOWN):
                raise BadSound(f"its header says {length} bytes of samples, it has {rest}")
            if form is None:
                raise BadSound("its samples come before their format")
            if form != (1, 1, RATE, 2 * RATE, 2, 16):
                raise BadSound(
                    f"it has {form[1]} channels of {form[5]} bits at {form[2]} Hz, "
                    f"wanted are 1 of 16 bits at {RATE}"
                )
            return place
        place += length + length % 2
    raise BadSound("it has a header, but no samples")


def _walk_wav(data: bytes) -> None:
    start = _wav_data(data)
    if (count := data.count(b"WAVEfmt ")) > 1:
        raise BadSound(f"it is {count} WAV files, one after the other")
    if start == len(data):
        raise BadSound("it has a header, but no samples")
    if (len(data) - start) % 2:
        raise BadSound(f"{len(data) - start} bytes are no whole number of samples")


_MP3_KBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""Of MPEG 2, layer III: the version for 24 kHz."""


def _walk_mp3(data: bytes) -> None:
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
            raise BadSound(f"after {frames} frames there is {head!r}: no frame, so no single file")
        version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
        bits, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
        if (version, layer, rate) != (2, 1, 1) or not 0 < bits < 15:
            raise BadSound(f"frame {frames} is not MPEG 2, layer III at {RATE} Hz: {head.hex()}")
        place += 72_000 * _MP3_KBITS[bits] // RATE + padding
        frames += 1
    if not frames:
        raise BadSound("it has no frames")
    if place > len(data):
        raise BadSound("its last frame is not whole")


def _walk_flac(data: bytes) -> None:
    if not data.startswith(b"fLaC"):
        raise BadSound(f"it begins with {data[:4]!r} instead of fLaC")
    if len(data) < 42:
        raise BadSound("its header is not whole")
    if (bits := (data[20] << 4 & 16 | data[21] >> 4) + 1) != 16:
        raise BadSound(f"its samples have {bits} bits, wanted are 16")
    # The fixed beginning of the only STREAMINFO block; by chance it is nowhere else.
    if (count := data.count(b"fLaC" + data[4:8])) > 1:
        raise BadSound(f"it is {count} FLAC files, one after the other")


def _flac_length(data: bytes) -> int:
    """Return how many samples the header says there are; 0: it was sent before that was known."""
    return int.from_bytes(data[21:26], "big") & (1 << 36) - 1


def _walk_ogg(data: bytes) -> None:
    place, flags, serials = 0, 0, set()
    while place < len(data):
        if data[place : place + 4] != b"OggS" or len(data) - place < 27:
            raise BadSound(f"at byte {place} there is no Ogg page: {data[place : place + 4]!r}")
        flags, serial, segments = data[place + 5], data[place + 14 : place + 18], data[place + 26]
        if flags & 2:
            serials.add((place, serial))
        place += 27 + segments + sum(data[place + 27 : place + 27 + segments])
    if len(serials) != 1:
        raise BadSound(f"it has {len(serials)} beginnings instead of one")
    if place > len(data):
        raise BadSound("its last page is not whole")
    if not flags & 4:
        raise BadSound("it has no end: its last page does not say so")


def _walk_aac(data: bytes) -> None:
    place = frames = 0
    while place < len(data):
        head = data[place : place + 7]
        if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
            raise BadSound(f"after {frames} frames there is {head!r}: no frame, so no single file")
        if (rate := head[2] >> 2 & 15) != 6:
            raise BadSound(
                f"frame {frames} has the sampling frequency {rate}, wanted is 6 (24 kHz)"
            )
        place += (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        frames += 1
    if place > len(data):
        raise BadSound("its last frame is not whole")


FORMATS = {
    "pcm": Format(("audio/pcm", "audio/l16"), _walk_pcm, "pcm_s16le"),
    "wav": Format(("audio/wav", "audio/x-wav", "audio/wave"), _walk_wav, "pcm_s16le"),
    "mp3": Format(("audio/mpeg", "audio/mp3"), _walk_mp3, "mp3"),
    "flac": Format(("audio/flac", "audio/x-flac"), _walk_flac, "flac"),
    "opus": Format(("audio/ogg", "audio/opus"), _walk_ogg, "opus", 48_000),
    "aac": Format(("audio/aac", "audio/aacp"), _walk_aac, "aac"),
}
"""The formats that the image speaks, by the names of OpenAI's API."""
