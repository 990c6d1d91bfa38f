"""What is kept of an answer while it arrives, and how long its sound is once it is decoded.

Raw samples are counted and dropped: a thousand streams at once would not fit into memory. Other
formats are spooled to a temporary file and decoded after the load has ended.
"""

from __future__ import annotations

import io
import struct
from typing import IO

import numpy as np
import numpy.typing as npt

from higgs_image.audio import SAMPLE_RATE
from higgs_image.bench.failure import FailedAnswerError, Failure
from higgs_image.smoke.audio import FORMATS, decode, require_codec
from higgs_image.smoke.audio_structure import BadAudioError, check_pcm
from higgs_image.smoke.sound import Sound

RAW = ("pcm", "wav")
"""Formats whose samples are counted as they arrive."""

HEAD = 4096
"""Bytes from the start that are kept of raw samples: more than any header has."""

Floats = npt.NDArray[np.float64]


class Recording:
    """The body of one answer.

    Args:
        form: format that was asked for.
        spool: takes the bytes of formats that have to be decoded.
    """

    __slots__ = ("_buffer", "_head", "_loud", "_place", "_spool", "form", "size")

    def __init__(self, form: str, spool: IO[bytes]) -> None:
        self.form, self.size = form, 0
        self._spool = spool
        self._head = b""
        self._loud = False
        self._place = -1
        self._buffer: list[bytes] = []

    @property
    def raw(self) -> bool:
        """Whether its samples are counted as they arrive."""
        return self.form in RAW

    def add(self, data: bytes) -> None:
        """Take the bytes that have just arrived."""
        size = self.size
        self.size = size + len(data)
        if not self.raw:
            self._buffer.append(data)
            return
        if size < HEAD:
            self._head += data[: HEAD - size]
        if not self._loud:
            odd = size % 2
            whole = data[odd : odd + (len(data) - odd) // 2 * 2]
            self._loud = not Sound(np.frombuffer(whole, "<i2")).is_silent

    def end(self) -> None:
        """Spool what was buffered; called once, when the answer has ended."""
        if self._buffer:
            self._place = self._spool.seek(0, io.SEEK_END)
            self._spool.writelines(self._buffer)
            self._buffer = []

    def playable(self, sizes: npt.NDArray[np.int64]) -> Floats:
        """Return the seconds of sound that each number of bytes from the start holds.

        Args:
            sizes: numbers of bytes, as they had arrived.

        Raises:
            FailedAnswerError: it is not sound of its format, or silent.
        """
        if not self.size:
            raise FailedAnswerError(Failure.CUT, "the answer has no bytes")
        try:
            found = self._of_raw(sizes) if self.raw else self._of_decoded(sizes)
        except BadAudioError as error:
            raise FailedAnswerError(Failure.WRONG_FORMAT, str(error)) from None
        if not self._loud:
            raise FailedAnswerError(Failure.SILENT, f"{found[-1]:.2f} s of silence")
        return found

    def _of_raw(self, sizes: npt.NDArray[np.int64]) -> Floats:
        start, rate = (0, 2 * SAMPLE_RATE) if self.form == "pcm" else _wav_layout(self._head)
        if self.form == "pcm":
            check_pcm(self._head[: len(self._head) // 2 * 2])
            if self._head.lstrip()[:1] in (b"<", b"{") and _is_text(self._head):
                raise BadAudioError(f"expected samples, got {self._head[:40]!r}")
        return np.maximum(sizes - start, 0) / rate

    def _of_decoded(self, sizes: npt.NDArray[np.int64]) -> Floats:
        self._spool.seek(self._place)
        data = self._spool.read(self.size)
        sound = decode(data, lambda stream: require_codec(stream, FORMATS[self.form]))
        self._loud = not sound.is_silent
        if self.form == "flac":  # its parser looks ten frames ahead; sound comes evenly
            return np.asarray(sizes / len(data) * sound.seconds)
        return _by_packet(data, sizes, sound.seconds)


def _is_text(head: bytes) -> bool:
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head[:64])


def _wav_layout(head: bytes) -> tuple[int, int]:
    """Return the position of the samples and their bytes a second."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        raise BadAudioError(f"expected a RIFF and WAVE header, got {head[:12]!r}")
    place, rate = 12, 0  # in bytes a second
    while place + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, place)
        place += 8
        if name == b"fmt " and place + 16 <= len(head):
            kind, channels, _, rate, _, bits = struct.unpack_from("<HHIIHH", head, place)
            if (kind, channels, bits) != (1, 1, 16):
                raise BadAudioError(f"expected mono of 16 bits, got {channels} of {bits} bits")
        if name == b"data" and rate:
            return place, rate
        place += length + length % 2
    raise BadAudioError("its header has no samples")


def _by_packet(data: bytes, sizes: npt.NDArray[np.int64], seconds: float) -> Floats:
    """Return the seconds of sound in the packets that are whole in the first bytes of a file."""
    import av

    ends, times = [0], [0.0]
    with av.open(io.BytesIO(data), "r") as file:
        stream = file.streams.audio[0]
        for packet in file.demux(stream):
            if packet.pos is None or not packet.duration or packet.time_base is None:
                continue
            if (end := packet.pos + packet.size) < ends[-1]:
                continue
            ends.append(end)
            times.append(times[-1] + float(packet.duration * packet.time_base))
    if times[-1] <= 0:
        raise BadAudioError("it has no packets")
    places = np.searchsorted(np.array(ends), sizes, side="right") - 1
    found = np.array(times)[places] * (seconds / times[-1])
    found[sizes >= len(data)] = seconds
    return np.asarray(found)
