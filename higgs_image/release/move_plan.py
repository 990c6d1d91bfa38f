"""Moves of a floating tag: planned first, which only reads, then applied and written down.

No image is rebuilt or copied as something else: the tag is set to a manifest that the repository
has.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from higgs_image import variants
from higgs_image.build.image import COMPRESSIONS
from higgs_image.errors import UsageError
from higgs_image.labels import ONLY_GPUS, VARIANT
from higgs_image.oci import read_back
from higgs_image.oci.artifacts import Repository, is_zstd
from higgs_image.oci.registry import INDEX_TYPES
from higgs_image.release import journal, lease, record_tags
from higgs_image.release.actor import actor
from higgs_image.release.journal import Journal
from higgs_image.release.records import Entry, Move

log = logging.getLogger(__name__)

FLOATING_TAG = "custom"
"""The tag that people pull; for other images than the default one see `floating_name`."""


_FLOATING = re.compile(FLOATING_TAG + variants.TAG_END)


@dataclass(frozen=True)
class MovePlan:
    """What a promotion or rollback would do.

    Attributes:
        repository: host and path.
        move: the record that announces it.
        nothing_to_do: the tag names that digest already, and the journal says so.
        notes: what a person should know before.
        undo: the command that reverts it.
    """

    repository: str
    move: Move
    nothing_to_do: bool = False
    notes: tuple[str, ...] = ()
    undo: str = ""

    def text(self) -> str:
        """Return the plan as text."""
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
        reference: the floating tag's full name.
        by_digest: the image, by a name that never moves.
        digest: what the tag names now, read back.
        previous: what it named before.
        skipped: there was nothing to do.
        record: tag of the journal's record.
        undo: the command that reverts it.
    """

    reference: str
    by_digest: str
    digest: str
    previous: str | None
    skipped: bool
    record: str
    undo: str

    def text(self) -> str:
        """Return the report as text."""
        lines = [f"{self.reference} is {self.digest}" + (" already" if self.skipped else "")]
        if self.undo and not self.skipped:
            lines.append(f"undo:  {self.undo}")
        return "\n".join(lines)


@dataclass(frozen=True)
class TagState:
    """What a floating tag names, and what the journal says of it.

    Attributes:
        present: digest that it names; None: nothing.
        moves: the completed moves, oldest first.
    """

    present: str | None
    moves: tuple[Entry, ...]

    @property
    def stack(self) -> list[str]:
        """Digests that a rollback can go back through."""
        return journal.stack(self.moves)

    @property
    def agrees(self) -> bool:
        """Tag and journal name the same digest."""
        return self.stack[-1:] == ([self.present] if self.present else [])


def tag_state(history: Journal, floating: str) -> TagState:
    """Read a floating tag and its moves for a plan.

    Where both disagree, one of them may be read as it was before: then they are read again, for
    as long as a registry may lag behind.
    """

    def read() -> TagState:
        present = history.repository.digest(floating)
        moves = journal.promoted(history.read(record_tags.is_move), floating)
        return TagState(present, tuple(moves))

    return read_back.until_true(read, lambda found: found.agrees, floating)


def apply(
    history: Journal, plan: MovePlan, files: Mapping[str, tuple[bytes, str]] | None = None
) -> Moved:
    """Move the tag as planned, and write it down. Run again after a crash it goes on.

    Args:
        history: the journal of the repository.
        plan: what to do.
        files: kept with the record: release notes and manifest.

    Raises:
        PromotionConflictError: another run was first.
        HiggsError: the registry failed; nothing is half done: see `lease.move`.
    """
    record = plan.move
    reference = history.repository.reference(record.moving)
    tag = ""
    if not plan.nothing_to_do:
        tag = lease.move(lease.RegistryTagStore(history, files), record, record.by)
        log.info("promote: %s is %s", reference, record.digest)
    return Moved(
        reference,
        history.repository.reference(record.digest),
        record.digest,
        record.previous,
        plan.nothing_to_do,
        tag,
        plan.undo,
    )


def settle(history: Journal) -> None:
    """Finish or drop what earlier runs that have ended left under way."""
    lease.settle(lease.RegistryTagStore(history), actor())


def find_image(repository: Repository, what: str) -> tuple[str, dict[str, Any]]:
    """Return digest and manifest of an image, named by a tag or digest.

    Raises:
        RegistryNotFoundError: there is no such image.
        UsageError: it is an index.
    """
    digest, manifest = repository.find(what)
    if manifest.get("mediaType") in INDEX_TYPES or "layers" not in manifest:
        raise UsageError(
            f"{repository.reference(what)} is an index, not an image",
            "give the digest of the image itself",
        )
    return digest, manifest


def floating_name(variant: str, compression: str, gpus: Iterable[str] = ()) -> str:
    """Return the floating tag: what tells images of one lock apart is in it, as in their tags.

    Args:
        variant: of the image.
        compression: of its layers.
        gpus: compute capabilities of an image for fewer GPUs.
    """
    return (
        FLOATING_TAG
        + variants.suffix(variant)
        + COMPRESSIONS[compression]
        + variants.gpus_suffix(gpus)
    )


def floating_tag(manifest: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Return the floating tag for an image."""
    compression = "zstd" if is_zstd(manifest) else "gzip"
    return floating_name(labels.get(VARIANT, ""), compression, labels.get(ONLY_GPUS, "").split())


def floating_tags(tags: Iterable[str]) -> list[str]:
    """Return those tags of a repository that are floating ones, `custom` first."""
    return sorted(tag for tag in tags if _FLOATING.fullmatch(tag))


def command(task: str, repository: Repository) -> str:
    """Return a task's command line with the flags that name a repository."""
    registry, _, name = repository.name.rpartition("/")
    return f"./inv {task} --registry {registry} --name {name}"


def undo(repository: Repository, floating: str, previous: str | None) -> str:
    """Return the command that reverts a move; empty where there was nothing before."""
    if previous is None:
        return ""
    rollback = command(f"rollback --to {previous} --moving {floating}", repository)
    return f"{rollback} --reason 'why' --yes"
