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

import msgspec

from higgs_image.release.actor import Actor

log = logging.getLogger(__name__)


KIND = "application/vnd.higgs-image.journal.v1+json"
RECORD = "org.higgs-image.record"

_TIME = "%Y%m%dT%H%M%S%fZ"

DONE, LOST, ABANDONED = "done", "lost", "abandoned"


class Push(msgspec.Struct, frozen=True, omit_defaults=True, tag="push", tag_field="event"):
    """An image was pushed under its immutable tag.

    Attributes:
        digest: of the image manifest.
        at: when, UTC.
        by: who.
        tag: the immutable tag.
        compression: gzip or zstd.
        lock_sha256: hash of the versions.lock that it was built from.
        commit: of the project's checkout when it was built; None without git.
        clean: that checkout was what the commit says.
        url: of the project's repository.
        size: compressed size of all layers in bytes.
    """

    digest: str
    at: datetime.datetime
    by: Actor
    tag: str
    compression: str
    lock_sha256: str
    commit: str | None
    clean: bool
    size: int
    url: str | None = None

    def words(self) -> str:
        """Say it in plain words."""
        commit = f"commit {self.commit[:7]}" if self.commit else "no known commit"
        state = "" if self.clean else ", with changes that are in no commit"
        return f"pushed as {self.tag}, built from {commit}{state}, {self.size / 1e6:.0f} MB"


class Smoke(msgspec.Struct, frozen=True, omit_defaults=True, tag="smoke", tag_field="event"):
    """A smoke test of an image ended with a verdict.

    Attributes:
        device_class: what it ran on: cpu or gpu.
        device: that device's name.
        verdict: pass, fail or inconclusive.
        seconds: how long it took.
        figures: what was measured, by name.
        summary: one line.
    """

    digest: str
    at: datetime.datetime
    by: Actor
    device_class: str
    verdict: str
    device: str = ""
    seconds: float = 0.0
    figures: dict[str, float] = {}
    summary: str = ""

    def words(self) -> str:
        """Say it in plain words."""
        on = f"{self.device_class} ({self.device})" if self.device else self.device_class
        more = f": {self.summary}" if self.summary else ""
        return f"smoke test on {on}: {self.verdict}{more}"


class _Move(msgspec.Struct, frozen=True, omit_defaults=True):
    """A moving tag is to name another image.

    Attributes:
        digest: what it shall name.
        moving: the tag.
        previous: what it named before; None if it did not exist.
        immutable: the immutable tag of the image.
        lock_sha256: hash of the versions.lock that the image was built from.
        reason: why, in the words of the one who does it.
        forced: what would have been refused without --force.
        rehearsal: it happened in a registry on loopback, where less is asked for.
        evidence: tags of the records that it relies on.
    """

    digest: str
    at: datetime.datetime
    by: Actor
    moving: str
    previous: str | None
    immutable: str = ""
    lock_sha256: str = ""
    reason: str = ""
    forced: list[str] = []
    rehearsal: bool = False
    evidence: list[str] = []

    def _words(self, what: str) -> str:
        before = f", before: {self.previous[7:19]}" if self.previous else ", for the first time"
        notes = [f"reason: {self.reason}"] if self.reason else []
        notes += [f"FORCED although {'; '.join(self.forced)}"] if self.forced else []
        notes += ["a rehearsal, not a release"] if self.rehearsal else []
        image = self.immutable or self.digest[7:19]
        return "; ".join([f"{what} {self.moving} to {image}{before}", *notes])


class Promote(_Move, frozen=True, omit_defaults=True, tag="promote", tag_field="event"):
    """A tested image gets a moving tag."""

    def words(self) -> str:
        """Say it in plain words."""
        return self._words("promotes")


class Rollback(_Move, frozen=True, omit_defaults=True, tag="rollback", tag_field="event"):
    """A moving tag goes back to an image that it named before."""

    def words(self) -> str:
        """Say it in plain words."""
        return self._words("rolls back")


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True, tag="outcome", tag_field="event"):
    """How the move that an earlier record announced ended.

    Attributes:
        of: tag of that record.
        outcome: done, lost (another one came first) or abandoned (its process ended half-way).
        why: in plain words.
    """

    digest: str
    at: datetime.datetime
    by: Actor
    of: str
    outcome: str
    why: str = ""

    def words(self) -> str:
        """Say it in plain words."""
        return f"{self.outcome}{': ' + self.why if self.why else ''}"


Move = Promote | Rollback
Record = Push | Smoke | Promote | Rollback | Outcome


class Entry(msgspec.Struct, frozen=True):
    """A record and where it lies.

    Attributes:
        tag: under which it was written; sorts by time.
        record: what it says.
        outcome: of a move: done, lost or abandoned; None while it is under way.
    """

    tag: str
    record: Record
    outcome: str | None = None

    def text(self) -> str:
        """Return one line for a person."""
        record = self.record
        end = f" [{self.outcome or 'under way'}]" if isinstance(record, Promote | Rollback) else ""
        when = f"{record.at:%Y-%m-%d %H:%M:%S}"
        return f"{when}  {record.digest[7:19]}  {record.words()}{end}  by {record.by.words()}"


def now() -> datetime.datetime:
    """Return the time of a record."""
    return datetime.datetime.now(datetime.UTC)
