"""Keeps jobs on disk, for a day and within a limit of size."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from higgs_patches.lib.errors import RefusedError

from higgs_generate.job import Job
from higgs_generate.sentences import TextPiece
from higgs_generate.speech import Speech

KEPT_SECONDS = 24 * 3600
_ID = re.compile(r"[0-9a-f]{32}")


class _Stored(NamedTuple):
    used: float
    size: int
    path: Path


class JobStore:
    """The jobs of this service, and those that an earlier process has left in the folder.

    In memory are only those that somebody uses.

    Args:
        folder: where they are kept.
        most_bytes: the most that they may take; the oldest go first.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most = most_bytes
        self._used: WeakValueDictionary[str, Job] = WeakValueDictionary()
        self._size = 0

    def create(self, speech: Speech, pieces: list[TextPiece], *, anchored: bool) -> Job:
        """Return a new job, which is on disk.

        Raises:
            RefusedError: it cannot be stored.
        """
        self.clean()
        id = secrets.token_hex(16)
        job = Job(id, self._folder / id, speech, pieces, anchored=anchored)
        try:
            job.write_plan()
        except OSError as error:
            raise _full(f"the job cannot be stored: {error.strerror}") from None
        self._used[id] = job
        return job

    def get(self, id: str) -> Job:
        """Return a job.

        Raises:
            RefusedError: there is none with that id.
        """
        job = self._used.get(id)
        if job is None and _ID.fullmatch(id):
            try:
                job = self._used[id] = Job.read_plan(id, self._folder / id)
            except (OSError, ValueError, TypeError, KeyError):
                job = None
        if job is None:
            text = "there is no such job: it was deleted, or is older than a day"
            raise RefusedError(text, "id", HTTPStatus.NOT_FOUND)
        return job

    def delete(self, job: Job) -> None:
        """Delete a job and its sound."""
        self._used.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    def grow(self, size: int) -> None:
        """Record that jobs take so many bytes more.

        Raises:
            RefusedError: they take too much, and none can be deleted.
        """
        self._size += size
        if self._size > self._most:
            self.clean()
        if self._size > self._most:
            raise _full("the jobs of this service take as much of its disk as they may")

    def clean(self) -> None:
        """Delete jobs that are too old, and the oldest ones if all take too much."""
        stored = sorted(self._stored())
        self._size = sum(x.size for x in stored)
        for used, size, path in stored:
            if self._size <= self._most and used > time.time() - KEPT_SECONDS:
                return
            job = self._used.get(path.name)
            if job is None or not job.listeners:
                self._size -= size
                self._used.pop(path.name, None)
                shutil.rmtree(path, ignore_errors=True)

    def _stored(self) -> list[_Stored]:
        try:
            paths = [x for x in self._folder.iterdir() if _ID.fullmatch(x.name)]
            return [
                _Stored(path.stat().st_mtime, sum(x.stat().st_size for x in path.iterdir()), path)
                for path in paths
            ]
        except OSError:  # there is no folder yet, or a file is just being renamed
            return []


def _full(text: str) -> RefusedError:
    return RefusedError(text, None, HTTPStatus.INSUFFICIENT_STORAGE)
