"""The records of the journal: what happened to an image, when, and who did it.

They are read strictly, and each proves itself: its text is written together with its SHA-256.
Records of earlier versions have none and stay readable.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from higgs_image.files import sha256_bytes
from higgs_image.lockfile import Digest, Sha256
from higgs_image.release.actor import Actor
from higgs_image.verdict import Verdict

KIND = "application/vnd.higgs-image.journal.v1+json"
RECORD = "org.higgs-image.record"
RECORD_SHA256 = "org.higgs-image.record-sha256"

OutcomeName = Literal["done", "lost", "abandoned"]

DONE: Final = "done"
LOST: Final = "lost"
ABANDONED: Final = "abandoned"

Tag = Annotated[str, msgspec.Meta(pattern=r"^\w[\w.-]{0,127}\Z")]
Commit = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?\Z")]
Utc = Annotated[datetime.datetime, msgspec.Meta(tz=True)]


class _Event(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag_field="event",
):
    """What every record has; its options hold for all of them.

    Attributes:
        digest: of the image manifest.
        at: when, UTC.
        by: who.
    """

    digest: Digest
    at: Utc
    by: Actor


class Push(_Event, frozen=True, tag="push"):
    """An image was pushed under its immutable tag.

    Attributes:
        tag: the immutable tag.
        compression: gzip or zstd.
        lock_sha256: hash of the versions.lock that it was built from.
        commit: of the project's checkout when it was built; None without git.
        clean: that checkout was what the commit says.
        url: of the project's repository.
        size: compressed size of all layers in bytes.
    """

    tag: Tag
    compression: Literal["gzip", "zstd"]
    lock_sha256: Sha256
    commit: Commit | None
    clean: bool
    size: Annotated[int, msgspec.Meta(ge=0)]
    url: str | None = None

    def describe(self) -> str:
        """Return a human-readable description."""
        commit = f"commit {self.commit[:7]}" if self.commit else "no known commit"
        state = "" if self.clean else ", with changes that are in no commit"
        return f"pushed as {self.tag}, built from {commit}{state}, {self.size / 1e6:.0f} MB"


class Smoke(_Event, frozen=True, tag="smoke"):
    """A smoke test of an image ended with a verdict.

    Attributes:
        device_class: what it ran on: cpu or gpu.
        device: that device's name.
        verdict: pass, fail or inconclusive.
        seconds: how long it took.
        figures: what was measured, by name.
        summary: one line.
    """

    device_class: Literal["gpu", "cpu"]
    verdict: Verdict
    device: str = ""
    seconds: float = 0.0
    figures: dict[str, float] = {}
    summary: str = ""

    def describe(self) -> str:
        """Return a human-readable description."""
        on = f"{self.device_class} ({self.device})" if self.device else self.device_class
        more = f": {self.summary}" if self.summary else ""
        return f"smoke test on {on}: {self.verdict}{more}"


class _Move(_Event, frozen=True):
    """A floating tag is to name another image.

    Attributes:
        moving: the tag; it will name `digest`.
        previous: what it named before; None if it did not exist.
        immutable: the immutable tag of the image.
        lock_sha256: hash of the versions.lock that the image was built from.
        reason: why, as given on the command line.
        forced: what would have been refused without --force.
        rehearsal: it happened in a registry on loopback, where less is required.
        evidence: tags of the records that it relies on.
    """

    WORDS: ClassVar = ""

    moving: Tag
    previous: Digest | None
    immutable: str = ""
    lock_sha256: str = ""
    reason: str = ""
    forced: list[str] = []
    rehearsal: bool = False
    evidence: list[str] = []

    def describe(self) -> str:
        """Return a human-readable description."""
        before = f", before: {self.previous[7:19]}" if self.previous else ", for the first time"
        notes = [f"reason: {self.reason}"] if self.reason else []
        notes += [f"FORCED although {'; '.join(self.forced)}"] if self.forced else []
        notes += ["a rehearsal, not a release"] if self.rehearsal else []
        image = self.immutable or self.digest[7:19]
        return "; ".join([f"{self.WORDS} {self.moving} to {image}{before}", *notes])


class Promote(_Move, frozen=True, tag="promote"):
    """A floating tag goes to a tested image."""

    WORDS = "promotes"


class Rollback(_Move, frozen=True, tag="rollback"):
    """A floating tag goes back to an image that it named before."""

    WORDS = "rolls back"


class Outcome(_Event, frozen=True, tag="outcome"):
    """How the move that an earlier record announced ended.

    Attributes:
        of: tag of that record.
        outcome: done, lost (another one came first) or abandoned (its process ended half-way).
        why: in plain words.
    """

    of: Tag
    outcome: OutcomeName
    why: str = ""

    def describe(self) -> str:
        """Return a human-readable description."""
        return f"{self.outcome}{': ' + self.why if self.why else ''}"


class _ProviderUpdate(_Event, frozen=True):
    """Something at a GPU provider that names an image was written.

    Attributes:
        provider: such as runpod.
        id: its id there.
        image: full name of the image that it names.
        fields: that were changed; empty: it was made.
    """

    WORD: ClassVar = ""

    provider: str
    id: str
    image: str
    fields: list[str] = []

    def describe(self) -> str:
        """Return a human-readable description."""
        what = f"changes {', '.join(self.fields)} of" if self.fields else "makes"
        return f"{what} the {self.WORD} {self.id} at {self.provider}: {self.image}"


class TemplateUpdate(_ProviderUpdate, frozen=True, tag="template"):
    """The template of a GPU provider was written."""

    WORD = "template"


class EndpointUpdate(_ProviderUpdate, frozen=True, tag="endpoint"):
    """The load-balanced endpoint of a GPU provider was written."""

    WORD = "endpoint"


Move = Promote | Rollback
Record = Push | Smoke | Promote | Rollback | Outcome | TemplateUpdate | EndpointUpdate


class Entry(msgspec.Struct, frozen=True):
    """A record and its location.

    Attributes:
        tag: its tag in the registry; sorts by time.
        record: its content.
        outcome: of a move: done, lost or abandoned; None while it is under way.
    """

    tag: str
    record: Record
    outcome: str | None = None

    def text(self) -> str:
        """Return one line of text."""
        record = self.record
        end = f" [{self.outcome or 'under way'}]" if isinstance(record, Promote | Rollback) else ""
        when = f"{record.at:%Y-%m-%d %H:%M:%S}"
        return f"{when}  {record.digest[7:19]}  {record.describe()}{end}  by {record.by.describe()}"


def now() -> datetime.datetime:
    """Return the time of a record."""
    return datetime.datetime.now(datetime.UTC)


_DECODER = msgspec.json.Decoder(Record)
"""Made once, when the module is loaded: see docs/upstream.md."""


def encode(record: Record) -> dict[str, str]:
    """Return the annotations that hold a record."""
    text = msgspec.json.encode(record)
    return {RECORD: text.decode(), RECORD_SHA256: sha256_bytes(text)}


def decode(annotations: Mapping[str, str]) -> Record:
    """Return the record that annotations hold.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    text = annotations.get(RECORD)
    if text is None:
        raise ValueError(f"the annotation {RECORD} is missing")
    wanted, actual = annotations.get(RECORD_SHA256), sha256_bytes(text.encode())
    if wanted not in (None, actual):
        raise ValueError(f"expected SHA-256 {wanted}, got {actual}")
    try:
        found: Record = _DECODER.decode(text)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    return found
