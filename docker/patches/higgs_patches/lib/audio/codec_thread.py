"""The thread in which codes become sound: beginnings first, and equal pieces as one batch.

PyTorch releases the interpreter while it computes, and takes it back after each of some hundred
operations. It would wait for each behind a busy event loop, 5 ms by default: `SWITCH_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import sys
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

BATCH_FRAMES = 250
"""Frames that are decoded at a time: bounds memory, and the wait of others."""

SWITCH_SECONDS = 0.0005
"""Longest time for which a thread keeps the interpreter while another one waits for it."""


@dataclass
class Piece:
    """The next frames of an utterance.

    Attributes:
        codes: (codebooks, frames); without frames only to end, or to look ahead.
        state: what decoding the piece before has left, None for the first one.
        last: whether the utterance ends with it. All of the sound comes out then.
    """

    codes: Any
    state: Any
    last: bool

    @property
    def kind(self) -> tuple[int, bool, bool]:
        """Pieces of one kind can be decoded as a batch. The first number is that of the frames."""
        return self.codes.shape[1], self.state is None, self.last


class PieceCodec(Protocol):
    """A codec that decodes pieces of utterances."""

    def decode(self, pieces: list[Piece], /) -> list[tuple[Any, Any]]:
        """Return samples (int16) of each piece, and the state for the next one.

        All are of one kind.
        """
        ...


@dataclass(order=True)
class _Job:
    later: bool  # sorted first: those that are urgent come before
    number: int
    codec: PieceCodec = field(compare=False)
    piece: Piece = field(compare=False)
    future: asyncio.Future[tuple[Any, Any]] = field(compare=False)

    def fits(self, other: _Job) -> bool:
        """Return whether both can be in one batch."""
        return self.codec is other.codec and self.piece.kind == other.piece.kind


class CodecThread:
    """Decodes pieces of any event loop, one batch after the other. It starts with the first."""

    def __init__(self) -> None:
        self._jobs: list[_Job] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    async def decode(self, codec: PieceCodec, piece: Piece, *, urgent: bool) -> tuple[Any, Any]:
        """Return samples and state of a piece.

        Args:
            codec: decodes it.
            piece: the next frames of an utterance.
            urgent: whether a listener waits for his first sound: it comes before all others.
        """
        future: asyncio.Future[tuple[Any, Any]] = asyncio.get_running_loop().create_future()
        with self._changed:
            job = _Job(not urgent, next(self._numbers), codec, piece, future)
            heapq.heappush(self._jobs, job)
            if self._thread is None:
                sys.setswitchinterval(SWITCH_SECONDS)
                self._thread = threading.Thread(target=self._run, name="codec", daemon=True)
                self._thread.start()
            self._changed.notify()
        return await future

    def _run(self) -> None:
        while True:
            jobs = self._next_batch()
            try:
                results: list[Any] = jobs[0].codec.decode([job.piece for job in jobs])
            except Exception as error:
                results = [error] if len(jobs) == 1 else [_alone(job) for job in jobs]
            for job, result in zip(jobs, results, strict=True):
                with contextlib.suppress(RuntimeError):  # its loop is closed
                    job.future.get_loop().call_soon_threadsafe(_settle, job.future, result)

    def _next_batch(self) -> list[_Job]:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs)
            batch = [heapq.heappop(self._jobs)]
            room = BATCH_FRAMES // max(1, batch[0].piece.kind[0])
            others = sorted(job for job in self._jobs if job.fits(batch[0]))
            batch += others[: max(0, room - 1)]
            self._jobs = [job for job in self._jobs if job not in batch]
            heapq.heapify(self._jobs)
        return batch


def _alone(job: _Job) -> Any:
    """Decode a piece of a batch that failed: only what is wrong by itself fails."""
    try:
        return job.codec.decode([job.piece])[0]
    except Exception as error:
        return error


def _settle(future: asyncio.Future[tuple[Any, Any]], result: Any) -> None:
    if future.done():  # its reader has gone
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


CODEC = CodecThread()
"""The one of this process: a GPU runs one batch after the other anyway."""
