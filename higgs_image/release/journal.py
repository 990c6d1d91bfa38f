"""The journal: what happened to a repository's images, kept beside them in the same registry.

Each record is an OCI artifact under a tag of its own, which is written once:

    journal-20261124T120000123456Z-promote-4f2a9c1-0c1d2e
            time (UTC)             event   digest  random

A record that announces the move of a tag is followed by one more, which says how it ended
(`...-0c1d2e.done`). So the list of tags alone shows what is under way. A copy of everything that
this machine wrote is appended to `build/journal/`.

The time in the tag gives the order. Clocks differ between machines: so a record that follows
another one is never given an earlier time there than that; `at` is what the clock said.
"""

from __future__ import annotations

import datetime
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from higgs_image.errors import RegistryError
from higgs_image.oci.artifacts import Artifact, Repository
from higgs_image.release.records import (
    _TIME,
    ABANDONED,
    DONE,
    KIND,
    LOST,
    RECORD,
    Entry,
    Outcome,
    Promote,
    Record,
    Rollback,
)

log = logging.getLogger(__name__)

DESCRIPTION = "org.opencontainers.image.description"

_TAG = re.compile(
    r"journal-(?P<time>\d{8}T\d{12}Z)-(?P<event>[a-z]+)-(?P<digest>[0-9a-f]{7})-(?P<id>[0-9a-f]{6})"
    r"(?:\.(?P<outcome>[a-z]+))?"
)


def tag_for(record: Record, tags: Iterable[str] = ()) -> str:
    """Return the tag under which a record is written.

    Args:
        record: what is written.
        tags: those that are there: the new one sorts behind all of the journal, also where this
            machine's clock is behind. A rollback would else go back to the wrong image.
    """
    if isinstance(record, Outcome):
        return f"{record.of}.{record.outcome}"
    event = record.__struct_config__.tag
    when = record.at.astimezone(datetime.UTC)
    times = [match["time"] for tag in tags if (match := _TAG.fullmatch(tag))]
    if times:
        newest = datetime.datetime.strptime(max(times), _TIME).replace(tzinfo=datetime.UTC)
        if newest >= when:
            log.info("journal: this machine's clock is behind the newest record, of %s", newest)
            when = newest + datetime.timedelta(microseconds=1)
    return f"journal-{when.strftime(_TIME)}-{event}-{record.digest[7:14]}-{secrets.token_hex(3)}"


def is_record(tag: str) -> bool:
    """Tell whether a tag is one of the journal's."""
    return _TAG.fullmatch(tag) is not None


def event_of(tag: str) -> str:
    """Return the event in a record's tag; empty for any other tag and for outcomes."""
    match = _TAG.fullmatch(tag)
    return match["event"] if match and not match["outcome"] else ""


def outcomes(tags: Iterable[str]) -> dict[str, str | None]:
    """Return each announced move in a list of tags with its outcome; None: it is under way."""
    there = set(tags)
    found: dict[str, str | None] = {}
    for tag in sorted(there):
        if event_of(tag) in ("promote", "rollback"):
            ends = [x for x in (DONE, LOST, ABANDONED) if f"{tag}.{x}" in there]
            found[tag] = ends[0] if ends else None
    return found


class Journal:
    """The journal of one repository.

    Args:
        repository: where it lies.
        folder: receives the copy of what is written; None: no copy.
    """

    def __init__(self, repository: Repository, folder: Path | None = None) -> None:
        self.repository = repository
        self._folder = folder
        self._known: dict[str, Record] = {}  # a record is written once

    def write(
        self,
        record: Record,
        files: Mapping[str, tuple[bytes, str]] | None = None,
        tag: str | None = None,
    ) -> Entry:
        """Write a record with its evidence; it is read back before this returns.

        Args:
            record: what happened.
            files: evidence: name to content and media type.
            tag: from `tag_for`, if it has to be known before.
        """
        tag = tag or tag_for(record, self.repository.tags())
        annotations = {RECORD: msgspec.json.encode(record).decode(), DESCRIPTION: record.words()}
        self.repository.put(tag, Artifact(KIND, annotations, files or {}))
        try:
            self._copy(tag, record)
        except OSError as error:  # it happened, and the registry has it: nothing is to be undone
            log.info("journal: the copy in %s could not be written: %s", self._folder, error)
        log.info("journal: %s", record.words())
        return Entry(tag, record)

    def read(self, wanted: Callable[[str], bool] = lambda _: True, newest: int = 0) -> list[Entry]:
        """Return the records, oldest first; outcomes are joined to what they belong to.

        Args:
            wanted: decides by the tag alone which are fetched.
            newest: how many of them, counted from the end; 0: all. Each is a request.
        """
        tags = self.repository.tags()
        ends = outcomes(tags)
        chosen = [tag for tag in tags if event_of(tag) and wanted(tag)][-newest:]
        with ThreadPoolExecutor(max_workers=8) as pool:
            records = list(pool.map(self.record, chosen))
        return [
            Entry(tag, record, ends.get(tag)) for tag, record in zip(chosen, records, strict=True)
        ]

    def record(self, tag: str) -> Record:
        """Return one record.

        Raises:
            RegistryError: it is gone, or is none.
        """
        if tag in self._known:
            return self._known[tag]
        manifest = self.repository.manifest(tag) or {}
        try:
            self._known[tag] = decode(manifest["annotations"][RECORD])
            return self._known[tag]
        except (KeyError, msgspec.MsgspecError) as error:
            raise RegistryError(
                f"{self.repository.reference(tag)} is no record of the journal: {error}",
                "somebody else wrote that tag, or a newer version did: update the project, or "
                "delete the tag",
            ) from None

    def of(self, digest: str) -> list[Entry]:
        """Return the records of one image."""
        found = self.read(lambda tag: f"-{digest[7:14]}-" in tag)
        return [entry for entry in found if entry.record.digest == digest]

    def _copy(self, tag: str, record: Record) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.-]+", "_", self.repository.name)
        line = {
            "repository": self.repository.name,
            "tag": tag,
            "record": msgspec.to_builtins(record),
        }
        with (self._folder / f"{name}.jsonl").open("a+b") as file:
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")  # a run that was killed left half a line
            file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())


def decode(text: str | bytes) -> Record:
    """Decode a record."""
    found: Any = msgspec.json.decode(text, type=Record)
    return found  # type: ignore[no-any-return]


def promoted(entries: Iterable[Entry], moving: str) -> list[Entry]:
    """Return the moves of a tag that took place, oldest first."""
    return [
        entry
        for entry in entries
        if isinstance(entry.record, Promote | Rollback)
        and entry.record.moving == moving
        and entry.outcome == DONE
    ]


def stack(moves: Iterable[Entry]) -> list[str]:
    """Return the digests that a rollback can go back through; the last one is in force.

    A promotion lays a digest on top; a rollback takes off everything above the one it went to.
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
