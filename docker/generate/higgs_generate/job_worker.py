"""Works on jobs while somebody listens: makes their pieces, a few at once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from http import HTTPStatus

from higgs_patches.lib.errors import RefusedError

from higgs_generate.failures import RetryLaterError, ServerFailedError
from higgs_generate.job import Job
from higgs_generate.job_store import JobStore
from higgs_generate.places import Places
from higgs_generate.server_client import ServerClient
from higgs_generate.speech import Speech

log = logging.getLogger("higgs_generate")

ATTEMPTS = 3
"""How often a piece is tried."""
LONGEST_PAUSE = 10.0
"""Seconds between two attempts."""
LOOK_SECONDS = 0.5
"""Time between two looks whether the server has room for another piece."""


class JobWorker:
    """Works on jobs.

    Args:
        client: the server.
        places: bounds how many pieces are made at once, of all jobs and other requests.
        store: counts the bytes on disk.
        parallel: pieces of one job that are made at once.
    """

    def __init__(
        self, client: ServerClient, places: Places, store: JobStore, parallel: int
    ) -> None:
        self._client = client
        self._store = store
        self._places = places
        self._parallel = parallel
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def listening(self, job: Job) -> AsyncGenerator[None, None]:
        """Work on a job until the last one who listens has gone."""
        job.listeners += 1
        if job.id not in self._tasks and None in job.samples:
            job.running, job.error = True, None  # at once: the listener must not see an old error
            task = asyncio.create_task(self._work(job))
            self._tasks[job.id] = task
            task.add_done_callback(lambda ended: self._end(job, ended))
        try:
            yield
        finally:
            job.listeners -= 1
            if not job.listeners and (running := self._tasks.pop(job.id, None)):
                running.cancel()
                job.running = False

    def _end(self, job: Job, task: asyncio.Task[None]) -> None:
        """Record that work has ended, unless other work on the job has begun since."""
        if self._tasks.get(job.id) is task:
            del self._tasks[job.id]
            job.running = False
            job.notify()

    async def _work(self, job: Job) -> None:
        job.begun.clear()
        open_pieces = [x for x, samples in enumerate(job.samples) if samples is None]
        try:
            async with asyncio.TaskGroup() as group:
                for lane in range(self._parallel):
                    group.create_task(self._lane(job, open_pieces, waits=lane == 0))
        except* RefusedError as errors:
            job.error = _first(errors)
        except* OSError as errors:
            log.warning("job %s cannot be stored: %s", job.id, errors.exceptions[0])
            text = "the sound cannot be stored: the disk of the service is full or not writable"
            job.error = RefusedError(text, None, HTTPStatus.INSUFFICIENT_STORAGE)

    async def _lane(self, job: Job, open_pieces: list[int], *, waits: bool) -> None:
        """Make one piece after the other.

        Args:
            job: the job.
            open_pieces: numbers of the pieces that no lane has taken yet.
            waits: whether this lane waits in the queue; the others use free places only.
        """
        while open_pieces:
            before = job.context_of(open_pieces[0])
            if before is not None and job.samples[before] is None:
                await job.change()
                continue
            if waits:
                await self._places.take()
            elif not self._places.try_take():
                await asyncio.sleep(LOOK_SECONDS)
                continue
            try:
                if open_pieces:
                    await self._make(job, open_pieces.pop(0))
            finally:
                self._places.leave()

    async def _make(self, job: Job, number: int) -> None:
        attempt = 1
        while True:
            try:
                await self._try(job, number)
                break
            except RefusedError as error:
                again = isinstance(error, RetryLaterError | ServerFailedError)
                if not again or attempt == ATTEMPTS or number in job.begun:
                    raise
                log.warning("piece %d of job %s: %s; trying again", number, job.id, error)
                pause = (
                    error.retry_after if isinstance(error, RetryLaterError) else 2 ** (attempt - 1)
                )
                await asyncio.sleep(min(pause, LONGEST_PAUSE))
                attempt += 1

    async def _try(self, job: Job, number: int) -> None:
        part = job.part(number)
        size = 0
        pcm = self._client.pcm(
            piece_speech(job.speech, job.pieces[number].text, number),
            f"{job.id}-{number}",
            job.context(number),
        )
        try:
            async with contextlib.aclosing(pcm):
                async for chunk in pcm:
                    with part.open("ab") as file:  # it exists when there is something to hear
                        file.write(chunk)
                    size += len(chunk)
                    self._store.grow(len(chunk))
                    job.notify()
            if size < 2:
                raise ServerFailedError("the server behind sent no sound")
            job.finish_piece(number, size // 2)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def piece_speech(speech: Speech, text: str, number: int) -> Speech:
    """Return what is spoken for a piece: the same seed would give equal breaths in all of them."""
    sampling = dict(speech.sampling)
    if sampling.get("seed") is not None:
        sampling["seed"] += number
    return replace(speech, text=text, sampling=sampling, speed=1.0)


def _first(errors: BaseExceptionGroup[RefusedError]) -> RefusedError:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
