"""Decode the model's codebook frames to sound, chunk by chunk and off the event loop.

The model speaks in rows of eight codes, 25 rows a second, with a delay: codebook c of frame t
stands in row t + c, after a first row of "begin" codes. A frame is complete when its last code has
come, and the first frame that holds an "end" code ends the utterance.

The codec's decoder is a stack of convolutions: sound depends on the frames around it, up to
`LOOKAHEAD_FRAMES` after it. `incremental` decodes each frame once and goes on where it was, so the
chunks are the very sound that decoding everything at once would give, without seams or crossfades.

The first chunk is small, for an early first byte, and the next grow by half: a listener who starts
with the first one is not left waiting as long as the model speaks 1.5 times as fast as he listens.
Larger chunks follow once he is seconds ahead, or where more frames are waiting, since each has its
fixed cost. All are of a few lengths, so that those of several listeners make one batch.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from higgs_patches.lib.audio import FRAMES_PER_SECOND
from higgs_patches.lib.audio.codec_thread import BATCH_FRAMES, CODEC, Piece, PieceCodec

CHUNK_FRAMES = FRAMES_PER_SECOND
"""Frames of a chunk once the stream runs: one second of sound."""

LENGTHS = (100, 50, 25, 18, 12, 8)
"""Frames of the chunks after the first, if the server chooses them; longest first."""

AHEAD = {4.0: 100, 2.0: 50}
"""Seconds of sound that a listener has got and not heard, and the chunks that he may wait for: they
take half that time while the model speaks twice as fast as he listens, and less than all of it
whenever it is faster than he."""

LOOKAHEAD_FRAMES = 10
"""Frames after a chunk that can change its sound (9.85)."""

SMALLEST_LOOKAHEAD = 7
"""Lookahead for clients that ask for small, that is early, chunks: the sound next to a chunk's end
differs by less than a thousandth (63 dB)."""

FIRST_CHUNK_SHARE = 5
"""The first chunk has a whole one's frames divided by this."""

WHOLE_FRAMES = BATCH_FRAMES - LOOKAHEAD_FRAMES
"""Frames of a chunk where nobody listens before the end."""

FEWEST_FRAMES = 12
"""Least frames with which an utterance can be begun, unless they are all of it."""


class NoAudioError(RuntimeError):
    """An utterance ended before its first frame was complete."""


class Codec(PieceCodec, Protocol):
    """What is used of the server's audio tokenizer."""

    @property
    def num_codebooks(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...
    @property
    def sampling_rate(self) -> int: ...


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
        chunk_frames: int | None = None,
        context_frames: int | None = None,
        grows: bool = True,
        whole: bool = False,
    ) -> None:
        """Decode with the model's codes for the begin (`bos_id`) and the end of a stream.

        Args:
            codec: the server's audio tokenizer.
            bos_id: code for the begin of a stream.
            eos_id: code for its end.
            chunk_frames: bounds how many frames are waited for (1 or more).
            context_frames: frames after a chunk that are waited for, `LOOKAHEAD_FRAMES` at most.
                Without it there are enough for exact sound, or fewer, down to
                `SMALLEST_LOOKAHEAD`, for chunks of less than 13 frames.
            grows: whether chunks may be larger than a second for a listener who is ahead. When
                they come then depends on the clock, and with it the last bits of the sound.
            whole: whether nobody listens before the end: it is decoded in the largest pieces.
        """
        self._codec = codec
        self._bos_id = bos_id
        self._eos_id = eos_id
        self._grows = grows and chunk_frames is None and not whole
        self._chunk_frames = WHOLE_FRAMES if whole else chunk_frames or CHUNK_FRAMES
        if context_frames is None or whole:
            context_frames = max(SMALLEST_LOOKAHEAD, self._chunk_frames - 3)
        self._lookahead = min(context_frames, LOOKAHEAD_FRAMES)
        self._whole = whole
        self._rows: list[Sequence[int]] = []
        self._begun = False
        self._complete = 0
        self._end = sys.maxsize  # the first frame with a code for the end
        self._ended = False
        self._decoded = 0
        self._state: Any = None
        self._exact = 0
        self._sent = 0
        self._first_sent = 0.0
        self._frame_samples = codec.sampling_rate // FRAMES_PER_SECOND
        share = 1 if whole else FIRST_CHUNK_SHARE
        self._next_chunk = max(1, self._chunk_frames // share)

    @property
    def frames(self) -> int:
        """Frames that were turned into sound so far, 25 a second."""
        return self._sent // self._frame_samples

    @property
    def ended(self) -> bool:
        """Whether the codes said that the utterance ends."""
        return self._ended

    def enough(self, rows: int) -> bool:
        """Return whether there is something to decode if as many rows are fed now.

        Where they end the utterance there may be nothing.
        """
        books = self._codec.num_codebooks
        complete = self._complete if self._ended else len(self._rows) + rows - books + 1
        if self._lookahead < LOOKAHEAD_FRAMES:
            return complete - self.frames - self._lookahead >= self._next_chunk
        return self._suffices(complete - self._decoded)

    async def feed(self, rows: Sequence[Sequence[int]]) -> bytes:
        """Take the rows that came since the last call; rows after the end are ignored."""
        self._take(rows)
        if self._lookahead < LOOKAHEAD_FRAMES:
            return await self._early()
        pcm = b""
        while size := self._due():
            pcm += await self._decode(size)
        return pcm

    async def finish(self) -> bytes:
        """Decode what is left. Raises NoAudioError if the whole utterance has no complete frame."""
        if not self._complete:
            raise NoAudioError(
                f"the model ended after {len(self._rows)} rows of codes, before a frame of audio"
            )
        pcm = b""
        while (left := self._complete - self._decoded) > BATCH_FRAMES:
            pcm += await self._decode(BATCH_FRAMES)
        return pcm + await self._decode(left, last=True)

    def _suffices(self, waiting: int) -> bool:
        """Return whether a chunk is decoded now if as many frames are waiting."""
        wanted = self._next_chunk
        if waiting < wanted:
            return False
        if self._state is None:
            wanted = self._first_piece()
        elif self._grows and wanted == self._chunk_frames:
            heard = asyncio.get_running_loop().time() - self._first_sent
            ahead = self._sent / self._codec.sampling_rate - heard
            wanted = next((size for least, size in AHEAD.items() if ahead >= least), wanted)
        return waiting >= wanted

    def _first_piece(self) -> int:
        """Return how many frames the utterance begins with."""
        return max(self._next_chunk + LOOKAHEAD_FRAMES, FEWEST_FRAMES)

    def _due(self) -> int:
        """Return how many frames are to be decoded now, 0 for none."""
        waiting = self._complete - self._decoded
        if not self._suffices(waiting):
            return 0
        size = self._next_chunk
        if self._state is None:
            size = self._first_piece()
        elif self._grows:
            size = next(size for size in LENGTHS if size <= waiting)
        self._next_chunk = self._following()
        return size

    async def _decode(self, count: int, *, last: bool = False) -> bytes:
        """Turn the next `count` frames into sound; all of it comes out with the last."""
        start = self._exact
        return self._send(start, await self._advance(count, last=last))

    async def _early(self) -> bytes:
        """Give chunks before all is there that can change the sound at their ends."""
        pcm = b""
        while self._complete - self.frames - self._lookahead >= self._next_chunk:
            chunk, start = self._next_chunk, self._exact
            fresh = self.frames + chunk + self._lookahead - self._decoded
            samples = np.empty(0, np.int16)
            if self._state is not None or fresh >= FEWEST_FRAMES:
                samples, fresh = await self._advance(fresh), 0
            end, _ = await self._run(fresh, last=True)
            self._next_chunk = self._following()
            until = (self.frames + chunk) * self._frame_samples
            pcm += self._send(start, np.concatenate([samples, end])[: until - start])
        return pcm

    def _following(self) -> int:
        """Return the next chunk's frames."""
        return min((3 * self._next_chunk + 1) // 2, self._chunk_frames)

    async def _advance(self, count: int, *, last: bool = False) -> Any:
        """Decode the next `count` frames and go on after them."""
        samples, self._state = await self._run(count, last=last)
        self._decoded += count
        self._exact += len(samples)
        return samples

    async def _run(self, count: int, *, last: bool) -> tuple[Any, Any]:
        start, books = self._decoded, np.arange(self._codec.num_codebooks)[:, None]
        rows = np.array(self._rows[start : start + count + len(books) - 1], dtype=np.int64)
        codes = rows.reshape(-1, len(books))[np.arange(count) + books, books]
        piece = Piece(codes.clip(0, self._codec.codebook_size - 1), self._state, last)
        urgent = not self._sent and not self._whole
        return await CODEC.decode(self._codec, piece, urgent=urgent)

    def _send(self, start: int, samples: Any) -> bytes:
        """Return what was not sent yet of samples, of which the first is number `start`."""
        fresh = samples[self._sent - start :]
        if not self._sent:
            self._first_sent = asyncio.get_running_loop().time()
        self._sent += len(fresh)
        pcm: bytes = fresh.astype("<i2").tobytes()
        return pcm

    def _take(self, rows: Sequence[Sequence[int]]) -> None:
        for row in rows:
            if not self._begun:
                self._begun = True
                if all(code == self._bos_id for code in row):
                    continue
            if self._ended:
                return
            last = len(self._rows)
            self._rows.append(row)
            if self._eos_id in row:
                ends = (last - book for book, code in enumerate(row) if code == self._eos_id)
                self._end = min([self._end, *(frame for frame in ends if frame >= 0)])
            frame = last + 1 - self._codec.num_codebooks
            if frame == self._end:
                self._ended = True
            else:
                self._complete = max(0, frame + 1)
