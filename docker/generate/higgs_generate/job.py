"""A long text on its way to sound: its pieces, what is finished of them, and who listens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from higgs_patches.lib.audio import SAMPLE_RATE
from higgs_patches.lib.audio.containers import wav_header
from higgs_patches.lib.errors import RefusedError

from higgs_generate.seams import Joiner
from higgs_generate.sentences import TextPiece
from higgs_generate.speech import Context, Speech

BLOCK = 48_000
"""Bytes that are read of a piece at a time: a second of sound."""
LONGEST_CONTEXT = 28
"""Seconds: servers with little memory take recordings of at most 30 s."""
PLAN = "job.json"


class JobState(Enum):
    """States of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    DONE = "done"
    FAILED = "failed"


class Job:
    """A long text, its pieces, and their sound on disk.

    Attributes:
        id: names it in the routes.
        speech: how it is spoken.
        pieces: the parts of the text.
        anchored: whether the voice of the first piece has to be carried on to the others, because
            it comes from a description and not from a recording.
        samples: length of each finished piece; None: it is not finished.
        error: why it failed.
        listeners: how many listen to its sound or its progress.
        begun: pieces of which a listener has got the sound before they were finished.
    """

    def __init__(
        self, id: str, folder: Path, speech: Speech, pieces: list[TextPiece], *, anchored: bool
    ) -> None:
        self.id = id
        self.folder = folder
        self.speech = speech
        self.pieces = pieces
        self.anchored = anchored
        self.samples: list[int | None] = [self._finished_samples(x) for x in range(len(pieces))]
        self.error: RefusedError | None = None
        self.listeners = 0
        self.running = False
        self.begun: set[int] = set()
        self._changed = asyncio.Event()

    # -- on disk -----------------------------------------------------------------------------------

    def write_plan(self) -> None:
        """Write what is to be done, for a later process."""
        plan = {
            "speech": asdict(self.speech),
            "pieces": [asdict(piece) for piece in self.pieces],
            "anchored": self.anchored,
        }
        self.folder.mkdir(mode=0o700, parents=True)
        (self.folder / PLAN).write_text(json.dumps(plan), encoding="utf-8")

    @staticmethod
    def read_plan(id: str, folder: Path) -> Job:
        """Return a job that an earlier process has begun.

        Raises:
            OSError, ValueError, TypeError, KeyError: there is none.
        """
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        pieces = [TextPiece(**piece) for piece in plan["pieces"]]
        speech = Speech(**plan["speech"])
        return Job(id, folder, speech, pieces, anchored=plan["anchored"])

    def part(self, number: int) -> Path:
        """Return the file of a piece that is being made."""
        return self.folder / f"{number:05}.part"

    def file(self, number: int) -> Path:
        """Return the file of a finished piece."""
        return self.folder / f"{number:05}.pcm"

    def _finished_samples(self, number: int) -> int | None:
        try:
            return self.file(number).stat().st_size // 2
        except OSError:
            return None

    # -- progress ----------------------------------------------------------------------------------

    @property
    def state(self) -> JobState:
        """Its state."""
        if None not in self.samples:
            return JobState.DONE
        if self.running:
            return JobState.RUNNING
        if self.error:
            return JobState.FAILED
        begun = any(x is not None for x in self.samples)
        return JobState.INTERRUPTED if begun else JobState.WAITING

    def as_json(self) -> dict[str, Any]:
        """Return the body of GET /generate/jobs/ID."""
        done = [x for x, samples in enumerate(self.samples) if samples is not None]
        return {
            "id": self.id,
            "state": self.state.value,
            "pieces": len(self.pieces),
            "pieces_done": len(done),
            "characters": sum(len(piece.text) for piece in self.pieces),
            "characters_done": sum(len(self.pieces[x].text) for x in done),
            "audio_seconds": round(sum(x or 0 for x in self.samples) / SAMPLE_RATE, 2),
            "error": str(self.error) if self.error else None,
        }

    def notify(self) -> None:
        """Wake those who wait for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def change(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    def finish_piece(self, number: int, samples: int) -> None:
        """Record that a piece is finished."""
        self.part(number).replace(self.file(number))
        self.samples[number] = samples
        self.notify()

    # -- the voice ---------------------------------------------------------------------------------

    def context_of(self, number: int) -> int | None:
        """Return the number of the piece that goes before this one in its request, if one does."""
        if self.speech.context == "none" or number == 0:
            return None
        if self.speech.context == "previous":
            return number - 1
        return 0 if self.anchored else None

    def context(self, number: int) -> Context | None:
        """Return the finished piece that goes before this one."""
        before = self.context_of(number)
        if before is None or (self.samples[before] or 0) > LONGEST_CONTEXT * SAMPLE_RATE:
            return None
        pcm = self.file(before).read_bytes()
        audio = base64.b64encode(wav_header(len(pcm)) + pcm).decode()
        return Context(self.pieces[before].text, audio)

    # -- the sound ---------------------------------------------------------------------------------

    async def sound(self, skip: int = 0) -> AsyncGenerator[bytes, None]:
        """Give the joined sound of all pieces in order, as far as they are made, and then as it is.

        Args:
            skip: samples at its beginning that are left out.

        Raises:
            RefusedError: a piece cannot be made.
        """
        joiner = Joiner()
        left = 2 * skip
        for number in range(len(self.pieces)):
            if number:
                joiner.end_piece(paragraph=self.pieces[number - 1].ends_paragraph)
            async with contextlib.aclosing(self._blocks(number)) as blocks:
                async for block in blocks:
                    joined = joiner.feed(block)
                    if out := joined[left:]:
                        yield out
                    left = max(0, left - len(joined))
        if out := joiner.finish()[left:]:
            yield out

    async def _blocks(self, number: int) -> AsyncGenerator[bytes, None]:
        """Give the sound of a piece, while it is made."""
        while self.samples[number] is None and not self.part(number).exists():
            if self.error and not self.running:
                raise self.error
            await self.change()
        path = self.file(number)
        if self.samples[number] is None:
            self.begun.add(number)  # from now on it must not be made anew
            path = self.part(number)
        with path.open("rb") as file:
            while True:
                finished = self.samples[number] is not None
                block = file.read(BLOCK)
                if block:
                    yield block
                elif finished:
                    return
                elif self.error and not self.running:
                    raise self.error
                else:
                    await self.change()
