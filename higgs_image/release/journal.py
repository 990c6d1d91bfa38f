"""The journal: what happened to a repository's images, kept beside them in the same registry.

Each record is an OCI artifact under a separate tag (see `record_tags`), written once. A
copy of everything that this machine wrote is appended to `build/journal/`.
"""

from __future__ import annotations

import datetime
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from higgs_image.errors import RegistryError
from higgs_image.oci import read_back
from higgs_image.oci.artifacts import Artifact, Repository
from higgs_image.release import records
from higgs_image.release.record_tags import disagreement, event_of, outcomes, tag_for
from higgs_image.release.records import DONE, KIND, RECORD_SHA256, Entry, Promote, Record, Rollback

log = logging.getLogger(__name__)

DESCRIPTION = "org.opencontainers.image.description"


class Journal:
    """The journal of one repository.

    Args:
        repository: where it is stored.
        folder: receives the copy of what is written; None: no copy.
    """

    def __init__(self, repository: Repository, folder: Path | None = None) -> None:
        self.repository = repository
        self._folder = folder
        self._known: dict[str, Record] = {}  # a record is written once
        self._written: set[str] = set()
        self._seen: set[str] = set()

    def tags(self) -> list[str]:
        """Return the repository's tags, with what this machine wrote a moment ago.

        A registry may list as before for a while: then it is asked until it does not.
        """
        recent = (self._written | set(self._recent())) - self._seen
        if not recent:
            return self.repository.tags()
        found = read_back.until_true(
            self.repository.tags, lambda tags: recent <= set(tags), "journal"
        )
        self._seen |= recent  # or given up: one wait is enough
        return found

    def write(
        self,
        record: Record,
        files: Mapping[str, tuple[bytes, str]] | None = None,
        tag: str | None = None,
    ) -> Entry:
        """Write a record with its evidence; this returns when the registry shows it.

        Args:
            record: what happened.
            files: evidence: name to content and media type.
            tag: from `tag_for`, if it has to be known before.
        """
        tag = tag or tag_for(record, self.tags())
        annotations = {**records.encode(record), DESCRIPTION: record.describe()}
        self.repository.put(tag, Artifact(KIND, annotations, files or {}))
        self._written.add(tag)
        try:
            self._copy(tag, record)
        except OSError as error:  # it happened, and the registry has it: nothing is to be undone
            log.info("journal: the copy in %s could not be written: %s", self._folder, error)
        log.info("journal: %s", record.describe())
        return Entry(tag, record)

    def read(self, wanted: Callable[[str], bool] = lambda _: True, newest: int = 0) -> list[Entry]:
        """Return the records, oldest first; outcomes are joined to what they belong to.

        Args:
            wanted: decides by the tag alone which are fetched.
            newest: how many of them, counted from the end; 0: all. Each is a request.

        Raises:
            RegistryError: a record is damaged.
        """
        entries, damaged = self.read_all(wanted, newest)
        if damaged:
            raise damaged[0]
        return entries

    def read_all(
        self, wanted: Callable[[str], bool] = lambda _: True, newest: int = 0
    ) -> tuple[list[Entry], list[RegistryError]]:
        """Return the records as `read` does, and an error for each that is damaged."""
        tags = self.tags()
        ends = outcomes(tags)
        chosen = [tag for tag in tags if event_of(tag) and wanted(tag)][-newest:]
        entries, damaged = [], []
        for tag, found in zip(chosen, self.repository.each(self._try, chosen), strict=True):
            if isinstance(found, RegistryError):
                damaged.append(found)
            else:
                entries.append(Entry(tag, found, ends.get(tag)))
        return entries, damaged

    def _try(self, tag: str) -> Record | RegistryError:
        try:
            return self.record(tag)
        except RegistryError as error:
            return error

    def record(self, tag: str) -> Record:
        """Return one record.

        Raises:
            RegistryError: it is gone or damaged; the message names it.
        """
        if tag in self._known:
            return self._known[tag]
        # A registry may list a tag a moment before it can be read.
        manifest = read_back.until_true(lambda: self.repository.manifest(tag), bool, tag) or {}
        try:
            found = records.decode(manifest.get("annotations") or {})
            if wrong := disagreement(tag, found):
                raise ValueError(wrong)
        except ValueError as error:
            raise RegistryError(
                f"{self.repository.reference(tag)} is not a valid record of the journal: {error}",
                "it is damaged, or a newer version wrote it: update the project, or compare it "
                "with the copy in build/journal/ of the machine that wrote it and delete the tag",
            ) from None
        self._known[tag] = found
        return found

    def of(self, digest: str) -> list[Entry]:
        """Return the records of one image."""
        found = self.read(lambda tag: f"-{digest[7:14]}-" in tag)
        return [entry for entry in found if entry.record.digest == digest]

    @property
    def _copy_file(self) -> Path | None:
        name = re.sub(r"[^\w.-]+", "_", self.repository.name)
        return self._folder / f"{name}.jsonl" if self._folder else None

    def _copy(self, tag: str, record: Record) -> None:
        path = self._copy_file
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        line = {
            "repository": self.repository.name,
            "tag": tag,
            "record": msgspec.to_builtins(record),
            RECORD_SHA256: records.encode(record)[RECORD_SHA256],
        }
        with path.open("a+b") as file:
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")  # a run that was killed left half a line
            file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _recent(self) -> Iterator[str]:
        """Yield the tags that this machine wrote within the last `read_back.LAG` seconds."""
        path = self._copy_file
        since = records.now() - datetime.timedelta(seconds=read_back.LAG)
        try:
            if path is None or path.stat().st_mtime < since.timestamp():
                return
            lines = path.read_bytes().splitlines()
        except OSError:
            return
        for line in reversed(lines):
            try:
                found: dict[str, Any] = msgspec.json.decode(line)
                if datetime.datetime.fromisoformat(found["record"]["at"]) < since:
                    return
                yield str(found["tag"])
            except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
                continue


def promoted(entries: Iterable[Entry], floating: str) -> list[Entry]:
    """Return the completed moves of a tag, oldest first."""
    return [
        entry
        for entry in entries
        if isinstance(entry.record, Promote | Rollback)
        and entry.record.moving == floating
        and entry.outcome == DONE
    ]


def stack(moves: Iterable[Entry]) -> list[str]:
    """Return the digests that a rollback can go back through; the last one is in force.

    A promotion puts a digest on top; a rollback removes everything above the one it went to.
    """
    found: list[str] = []
    for entry in moves:
        record = entry.record
        if isinstance(record, Rollback) and record.digest in found:
            while found[-1] != record.digest:
                found.pop()
        elif not found or found[-1] != record.digest:
            found.append(record.digest)
    return found
