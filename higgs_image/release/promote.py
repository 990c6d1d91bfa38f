"""Promotion and rollback: a moving tag gets exactly the digest that was tested, or an earlier one.

First a plan, which reads only; then it is applied, and written down. No image is rebuilt or copied
as something else: the tag is set to a manifest that the repository has.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from higgs_image.build.image import COMPRESSIONS
from higgs_image.errors import HiggsError, RegistryNotFoundError, ReleaseRefusedError, UsageError
from higgs_image.oci.artifacts import INDEX_TYPES, Repository
from higgs_image.release import evidence, journal, lease, policy
from higgs_image.release import records as release_records
from higgs_image.release.actor import actor
from higgs_image.release.journal import Journal
from higgs_image.release.records import Move, Promote, Rollback

log = logging.getLogger(__name__)

MOVING = "custom"
"""The tag that people pull; the variant's ending is appended."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        device_class: on which the smoke test must have passed.
        force: go over what is refused; needs a reason.
        reason: why; written down.
        rehearsal: on loopback only: allow a stand-in and the overrides that a machine without
            access to the locked base needs. The record says so.
    """

    device_class: str = "gpu"
    force: bool = False
    reason: str = ""
    rehearsal: bool = False


@dataclass(frozen=True)
class Plan:
    """What a promotion or rollback would do.

    Attributes:
        repository: host and path.
        move: the record that announces it.
        nothing_to_do: the tag names that digest already, and the journal says so.
        notes: what a person should know before.
        undo: the command that takes it back.
    """

    repository: str
    move: Move
    nothing_to_do: bool = False
    notes: tuple[str, ...] = ()
    undo: str = ""

    def text(self) -> str:
        """Return the plan as a person reads it."""
        record = self.move
        reference = f"{self.repository}:{record.moving}"
        if self.nothing_to_do:
            return f"nothing to do: {reference} is {record.digest}"
        return "\n".join(
            [
                "would do:",
                f"  {reference}",
                f"    from  {record.previous or 'nothing'}",
                f"    to    {record.digest}  ({record.immutable or 'no immutable tag known'})",
                *(f"  note: {note}" for note in self.notes),
            ]
        )


@dataclass(frozen=True)
class Moved:
    """What a promotion or rollback did.

    Attributes:
        reference: the moving tag's full name.
        by_digest: the image, by a name that never moves.
        digest: what the tag names now, read back.
        previous: what it named before.
        skipped: there was nothing to do.
        record: tag of the journal's record.
        undo: the command that takes it back.
    """

    reference: str
    by_digest: str
    digest: str
    previous: str | None
    skipped: bool
    record: str
    undo: str

    def text(self) -> str:
        """Return the report as a person reads it."""
        lines = [f"{self.reference} is {self.digest}" + (" already" if self.skipped else "")]
        if self.undo and not self.skipped:
            lines.append(f"undo:  {self.undo}")
        return "\n".join(lines)


def plan_promotion(repository: Repository, history: Journal, what: str, request: Request) -> Plan:
    """Say what a promotion would do.

    Args:
        repository: where.
        history: its journal.
        what: a digest, or an immutable tag.
        request: with which conditions.

    Raises:
        ReleaseRefusedError: naming every reason; none is gone over without --force and a reason.
        RegistryNotFoundError: there is no such image.
        UsageError: the conditions contradict each other.
    """
    _require_sense(repository, request)
    digest, manifest = _find(repository, what)
    moving = MOVING + _variant(manifest)
    known, records = evidence.gather(repository, history, digest)
    against = policy.refusals(known, request.device_class)
    waived = [x for x in against if request.rehearsal and x.rehearsable]
    open_ = [x for x in against if x not in waived]
    forced = [x for x in open_ if request.force and x.forcible]
    if left := [x for x in open_ if x not in forced]:
        raise ReleaseRefusedError(
            f"{repository.reference(digest)} is not promoted: " + "; ".join(x.reason for x in left),
            "; ".join(dict.fromkeys(x.remedy for x in left))
            + (
                "; --force with --reason goes over it, and is written down"
                if all(x.forcible for x in left)
                else ""
            ),
        )
    previous = repository.digest(moving)
    push = known.push
    record = Promote(
        digest=digest,
        at=release_records.now(),
        by=actor(),
        moving=moving,
        previous=previous,
        immutable=push.tag if push else "",
        lock_sha256=push.lock_sha256 if push else known.labels.get(policy.LOCK, ""),
        reason=request.reason,
        forced=[x.reason for x in forced],
        rehearsal=request.rehearsal,
        evidence=[entry.tag for entry in records],
    )
    moves = journal.promoted(history.read(_is_move), moving)
    return Plan(
        repository.name,
        record,
        nothing_to_do=previous == digest and journal.stack(moves)[-1:] == [digest],
        notes=tuple(
            [f"forced although {x.reason}" for x in forced]
            + [f"allowed in a rehearsal: {x.reason}" for x in waived]
        ),
        undo=_undo(repository, moving, previous),
    )


def plan_rollback(
    repository: Repository, history: Journal, reason: str, moving: str, to: str | None = None
) -> Plan:
    """Say what a rollback would do.

    Args:
        repository: where.
        history: its journal.
        reason: why; written down.
        moving: the tag that goes back.
        to: the digest to go back to; by default the one before the present one.

    Raises:
        UsageError: no reason is given.
        ReleaseRefusedError: the tag never named that digest, or there is none before.
        RegistryNotFoundError: the image is gone.
    """
    if not reason.strip():
        raise UsageError(
            "a rollback needs a reason, which is written down", "--reason 'what is wrong with it'"
        )
    present = repository.digest(moving)
    moves = journal.promoted(history.read(_is_move), moving)
    earlier = journal.stack(moves)
    if present is None or not moves:
        raise ReleaseRefusedError(
            f"{repository.reference(moving)} was never promoted: there is nothing to go back from",
            "see invoke history",
        )
    notes = []
    if earlier[-1:] == [present]:
        earlier = earlier[:-1]
    else:
        notes.append(f"{moving} names {present}, which no record of the journal put there")
    if to is None and not earlier:
        raise ReleaseRefusedError(
            f"no image was promoted before {present}", "promote another one: invoke promote DIGEST"
        )
    digest, _ = _find(repository, to or earlier[-1])
    past = [entry for entry in moves if entry.record.digest == digest]
    if not past:
        raise ReleaseRefusedError(
            f"{moving} never named {digest}",
            "go back to one that it did name (invoke history), or promote it: invoke promote",
        )
    before = past[-1].record
    assert isinstance(before, Promote | Rollback)  # noqa: S101 (by promoted())
    notes += [f"it was in force since {before.at:%Y-%m-%d %H:%M} UTC, by {before.by.words()}"]
    notes += [f"it had been forced although {reason}" for reason in before.forced]
    record = Rollback(
        digest=digest,
        at=release_records.now(),
        by=actor(),
        moving=moving,
        previous=present,
        immutable=before.immutable,
        lock_sha256=before.lock_sha256,
        reason=reason,
        rehearsal=before.rehearsal,
        evidence=[past[-1].tag],
    )
    return Plan(
        repository.name,
        record,
        nothing_to_do=present == digest,
        notes=tuple(notes),
        undo=_undo(repository, moving, present),
    )


def apply(
    repository: Repository,
    history: Journal,
    plan: Plan,
    files: Mapping[str, tuple[bytes, str]] | None = None,
) -> Moved:
    """Move the tag as planned, and write it down. Run again after a crash it goes on.

    Args:
        repository: where.
        history: its journal.
        plan: what to do.
        files: kept with the record: release notes and manifest.

    Raises:
        PromotionConflictError: another one came first.
        HiggsError: the registry failed; nothing is half done: see `claim.move`.
    """
    record = plan.move
    reference = repository.reference(record.moving)
    tag = ""
    if not plan.nothing_to_do:
        tag = lease.move(_Board(repository, history, files or {}), record, record.by)
        log.info("promote: %s is %s", reference, record.digest)
    return Moved(
        reference,
        repository.reference(record.digest),
        record.digest,
        record.previous,
        plan.nothing_to_do,
        tag,
        plan.undo,
    )


def state(repository: Repository, history: Journal) -> list[str]:
    """Say of each moving tag what it names, and whether the journal says the same."""
    lines = []
    moves = history.read(_is_move, newest=20)  # each is a request
    for moving in (MOVING + ending for ending in COMPRESSIONS.values()):
        digest = repository.digest(moving)
        if digest and not journal.promoted(moves, moving):
            moves = history.read(_is_move)
        done = journal.promoted(moves, moving)
        told = done[-1].record.digest if done else None
        begun = [
            x for x in moves
            if isinstance(x.record, Promote | Rollback)
            and (x.record.moving, x.record.digest, x.outcome) == (moving, digest, None)
        ]  # fmt: skip
        if begun:
            lines.append(
                f"{moving} names {digest}, by {begun[-1].record.by.words()}, whose record is not "
                "finished: should it have died, the next promotion finishes it"
            )
        elif digest != told:
            lines.append(
                f"{moving} names {digest or 'nothing'}, BUT BY THE JOURNAL {told or 'nothing'}: "
                "somebody moved it by hand"
            )
        elif digest:
            lines.append(f"{moving} names {digest}")
    return lines


def settle(repository: Repository, history: Journal) -> None:
    """Finish or drop what earlier runs that have ended left under way."""
    lease.settle(_Board(repository, history, {}), actor())


class _Board:
    """The registry, as the claim protocol sees it."""

    def __init__(
        self, repository: Repository, history: Journal, files: Mapping[str, tuple[bytes, str]]
    ) -> None:
        self._repository, self._history, self._files = repository, history, files

    def tags(self) -> list[str]:
        return self._repository.tags()

    def record(self, tag: str) -> Move:
        record = self._history.record(tag)
        if not isinstance(record, Promote | Rollback):
            raise HiggsError(f"{tag} is no move", "see invoke history")
        return record

    def write(self, record: Move | release_records.Outcome, tag: str) -> None:
        files = self._files if isinstance(record, Promote | Rollback) else {}
        self._history.write(record, files, tag)

    def digest(self, tag: str) -> str | None:
        return self._repository.digest(tag)

    def point(self, tag: str, digest: str) -> None:
        self._repository.point(tag, digest)


def _is_move(tag: str) -> bool:
    return journal.event_of(tag) in ("promote", "rollback")


def _require_sense(repository: Repository, request: Request) -> None:
    if request.force and not request.reason.strip():
        raise UsageError(
            "--force needs a reason, which is written down", "--force --reason 'why it must be'"
        )
    if request.rehearsal and not repository.is_local:
        raise UsageError(
            f"--rehearsal is for registries on loopback, {repository.name} is none",
            "release the real image, or use a registry such as 127.0.0.1:5000",
        )


def digest_of(repository: Repository, what: str) -> str:
    """Return the digest of an image.

    Raises:
        RegistryNotFoundError: there is no such image.
        UsageError: it is an index.
    """
    return _find(repository, what)[0]


def _find(repository: Repository, what: str) -> tuple[str, dict[str, Any]]:
    """Return digest and manifest of an image."""
    digest = what if what.startswith("sha256:") else repository.digest(what)
    manifest = repository.manifest(digest) if digest else None
    if digest is None or manifest is None:
        raise RegistryNotFoundError(
            f"{repository.reference(what)} was not found", "check the name and the digest"
        )
    if manifest.get("mediaType") in INDEX_TYPES or "layers" not in manifest:
        raise UsageError(
            f"{repository.reference(what)} is an index, not one image",
            "give the digest of the image itself",
        )
    return digest, manifest


def _variant(manifest: dict[str, Any]) -> str:
    """Return the ending of the tags of an image's variant, told from its layers."""
    zstd = any(str(layer["mediaType"]).endswith("zstd") for layer in manifest["layers"])
    return COMPRESSIONS["zstd" if zstd else "gzip"]


def command(task: str, repository: Repository) -> str:
    """Return a task's command line with the flags that name a repository."""
    registry, _, name = repository.name.rpartition("/")
    return f"./inv {task} --registry {registry} --name {name}"


def _undo(repository: Repository, moving: str, previous: str | None) -> str:
    if previous is None:
        return ""
    rollback = command(f"rollback --to {previous} --moving {moving}", repository)
    return f"{rollback} --reason 'why' --yes"
