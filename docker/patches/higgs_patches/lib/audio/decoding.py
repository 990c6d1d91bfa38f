"""Decode the model's codebook frames to sound, chunk by chunk and off the event loop.

The model speaks in rows of eight codes, 25 rows a second, with a delay: codebook c of frame t
stands in row t + c, after a first row of "begin" codes. A frame is complete when its last code has
come, and the first frame that holds an "end" code ends the utterance.

The codec's decoder is a stack of convolutions: a frame of sound depends on at most 10 frames before
it and 11 after it. So a chunk that is decoded with `CONTEXT_FRAMES` on either side, which are then
cut off, is the very sound that decoding everything at once would give, without seams or crossfades.

The first chunk is small, for an early first byte, and the next grow by half: a listener who starts
with the first one is not left waiting as long as the model speaks 1.5 times as fast as he listens.

Decoding runs in one thread of its own. PyTorch lets go of the interpreter while it computes, so the
server goes on answering; one GPU runs the chunks one after the other anyway, and the codec's
layers normalise their weights in place, which two threads must not do at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from higgs_patches.lib.audio import FRAMES_PER_SECOND

CHUNK_FRAMES = FRAMES_PER_SECOND
"""Frames of a chunk once the stream runs: one second of sound."""

CONTEXT_FRAMES = 11
"""Frames on either side of a chunk that can change its sound (measured: 9.9 before, 10.9 after)."""

SMALLEST_CONTEXT = 7
"""Context for clients that ask for small, that is early, chunks: with 7 frames the sound next to a
chunk's ends differs by less than a thousandth (63 dB), with 9 by less than 16 bits can show."""

FIRST_CHUNK_SHARE = 5
"""The first chunk has a whole one's frames divided by this."""

LONGEST_CHUNK = 250
"""Frames that are decoded at a time at the end or of a whole: bounds memory, and others' wait."""

_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="codec")


class NoAudioError(RuntimeError):
    """An utterance ended before its first frame was complete."""


class Codec(Protocol):
    """What is used of the server's audio tokenizer."""

    @property
    def num_codebooks(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...
    @property
    def sampling_rate(self) -> int: ...
    def decode(self, vq_code: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], int]:
        """Codes (codebook, frame) to samples between -1 and 1, and their rate."""
        ...


class AudioDecoder:
    """One utterance on its way from rows of codes to PCM (signed 16 bit, little-endian, mono).

    Feed it rows as the engine gives them, then finish it; each returns the bytes that are ready, of
    `codec.sampling_rate` samples a second, and an empty string when none are. For the next
    utterance of the same answer make a new decoder.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        bos_id: int,
        eos_id: int,
        chunk_frames: int = CHUNK_FRAMES,
        context_frames: int | None = None,
    ) -> None:
        """Decode with the model's codes for the begin (`bos_id`) and the end of a stream.

        `chunk_frames` (1 or more) bounds how many frames are waited for, `context_frames` (0 or
        more) how many are decoded along on either side, `CONTEXT_FRAMES` at most. Without it there
        are enough for exact sound, or fewer, down to `SMALLEST_CONTEXT`, for chunks of less than
        14 frames.
        """
        self._codec = codec
        self._bos_id = bos_id
        self._eos_id = eos_id
        self._chunk_frames = chunk_frames
        if context_frames is None:
            context_frames = max(SMALLEST_CONTEXT, chunk_frames - 3)
        self._context_frames = min(context_frames, CONTEXT_FRAMES)
        self._rows: list[Sequence[int]] = []
        self._begun = False
        self._complete = 0
        self._ended = False
        self._decoded = 0
        self._next_chunk = max(1, chunk_frames // FIRST_CHUNK_SHARE)

    @property
    def frames(self) -> int:
        """Frames that were turned into sound so far, 25 a second."""
        return self._decoded

    @property
    def ended(self) -> bool:
        """Whether the codes said that the utterance ends."""
        return self._ended

    async def feed(self, rows: Sequence[Sequence[int]]) -> bytes:
        """Take the rows that came since the last call; rows after the end are ignored."""
        self._take(rows)
        pcm = b""
        while self._complete - self._decoded - self._context_frames >= self._next_chunk:
            # Never more at a time, however many are waiting: where a chunk ends must not depend on
            # when its rows came, or equal codes would give sounds that differ in their last bits.
            pcm += await self._decode(self._next_chunk)
            self._next_chunk = min((3 * self._next_chunk + 1) // 2, self._chunk_frames)
        return pcm

    async def finish(self) -> bytes:
        """Decode what is left. Raises NoAudioError if the whole utterance has no complete frame."""
        if not self._complete:
            raise NoAudioError(
                f"the model ended after {len(self._rows)} rows of codes, before a frame of audio"
            )
        pcm = b""
        while left := self._complete - self._decoded:
            pcm += await self._decode(min(left, LONGEST_CHUNK))
        return pcm

    def _take(self, rows: Sequence[Sequence[int]]) -> None:
        for row in rows:
            if not self._begun:
                self._begun = True
                if all(code == self._bos_id for code in row):
                    continue
            if self._ended:
                return
            self._rows.append(row)
            frame = len(self._rows) - self._codec.num_codebooks
            if frame < 0:
                continue
            if self._eos_id in self._frame(frame):
                self._ended = True
            else:
                self._complete = frame + 1

    def _frame(self, frame: int) -> list[int]:
        return [self._rows[frame + book][book] for book in range(self._codec.num_codebooks)]

    async def _decode(self, count: int) -> bytes:
        """Turn the next `count` frames into sound, with all the context that there is."""
        first = max(0, self._decoded - self._context_frames)
        last = min(self._complete, self._decoded + count + self._context_frames)
        codes = np.array([self._frame(frame) for frame in range(first, last)], dtype=np.int64).T
        codes = codes.clip(0, self._codec.codebook_size - 1)
        skip = self._decoded - first
        self._decoded += count
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_THREAD, _pcm, self._codec, codes, skip, count)


async def decode(codec: Codec, rows: Sequence[Sequence[int]], *, bos_id: int, eos_id: int) -> bytes:
    """Return the PCM of a whole utterance. Raises NoAudioError if it has no complete frame."""
    decoder = AudioDecoder(codec, bos_id=bos_id, eos_id=eos_id, chunk_frames=LONGEST_CHUNK)
    return await decoder.feed(rows) + await decoder.finish()


def _pcm(codec: Codec, codes: np.ndarray[Any, Any], skip: int, count: int) -> bytes:
    """Decode codes and cut `count` frames out of the sound, after the first `skip`."""
    samples, _ = codec.decode(codes)
    per_frame = len(samples) // codes.shape[1]
    wanted = samples[skip * per_frame : (skip + count) * per_frame]
    pcm: bytes = np.rint(wanted.clip(-1.0, 1.0) * 32767).astype("<i2").tobytes()
    return pcm
