"""`invoke cleanup`: which old images are deleted, and which stay and why.

A registry deletes by digest, and every tag of that digest with it: so what is decided on is a
digest with all its tags, and one reason to keep is enough. Signatures and attestations stay and go
with the image that they are about. The journal always stays.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from higgs_image import variants
from higgs_image.errors import PromotionConflictError, RegistryError, UsageError
from higgs_image.oci.registry import INDEX_TYPES
from higgs_image.release import lease, record_tags
from higgs_image.release.image_store import ImageStore, StoredManifest
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import FLOATING_TAG
from higgs_image.release.records import Promote, Rollback

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
"""Seconds between two looks for announced moves, where a move waits longer before it takes place.

The list of thousands of tags is many requests: before each deletion it would take most of the time.
"""

_IMMUTABLE = re.compile(
    r"\d{8}-[0-9a-f]{7}-[0-9a-f]{7}" + variants.TAG_END + r"(-dev-[0-9a-f]{7})?"
)
_ABOUT = re.compile(r"sha256-([0-9a-f]{64})(\.[a-z]+)?")
_PIN = re.compile(rf"sha256:[0-9a-f]{{64}}|\b{_IMMUTABLE.pattern}")


@dataclass(frozen=True)
class CleanupPlan:
    """What a cleanup would do.

    Attributes:
        delete: images first, then what is about them.
        keep: what stays, each with its reason.
        moves: tags of the promotions and rollbacks that it knows of.
    """

    delete: tuple[StoredManifest, ...]
    keep: tuple[tuple[StoredManifest, str], ...]
    moves: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the plan as text."""
        gone = [
            f"  delete  {x.digest[7:19]}  {' '.join(x.tags) or '(no tag)'}" for x in self.delete
        ]
        left = [
            f"  keep    {x.digest[7:19]}  {' '.join(x.tags) or '(no tag)'}: {why}"
            for x, why in self.keep
            if why != "the journal"
        ]
        records = sum(why == "the journal" for _, why in self.keep)
        return "\n".join([*gone, *left, f"  keep    {records} records of the journal"])


def pins_in(paths: Iterable[Path]) -> set[str]:
    """Return every digest and immutable tag that files name.

    Raises:
        UsageError: a file cannot be read: what it pins would be deleted.
    """
    found: set[str] = set()
    for path in paths:
        try:
            text = path.read_text(errors="replace")
        except OSError as error:
            raise UsageError(
                f"pin file {path}: {error.strerror}", "name a file that can be read"
            ) from None
        found |= {match[0] for match in _PIN.finditer(text)}
    return found


def plan(
    versions: Sequence[StoredManifest],
    keep_last: int,
    promoted: set[str],
    pinned: set[str],
    children: set[str],
) -> CleanupPlan:
    """Decide what goes. Pure: the same lists give the same plan.

    Args:
        versions: everything that the store lists.
        keep_last: how many of the newest pushed images stay.
        promoted: digests that were ever promoted, or are about to be.
        pinned: digests and tags that somebody names.
        children: digests that an index names.
    """
    pushed = record_tags.pushed_at(tag for version in versions for tag in version.tags)
    images = [x for x in versions if _is_image(x)]
    newest = sorted(images, key=lambda x: _age(x, pushed), reverse=True)[: max(keep_last, 0)]
    kept: dict[str, str] = {}
    for version in versions:
        why = ""
        if version.digest in promoted:
            why = "it was promoted"
        elif version.digest in pinned or pinned & set(version.tags):
            why = "a pin names it"
        elif any(tag.startswith(FLOATING_TAG) for tag in version.tags):
            why = "a floating tag names it"
        elif any(map(record_tags.is_record, version.tags)):
            why = "the journal"
        elif version in newest:
            why = f"among the last {keep_last}"
        elif version.digest in children:
            why = "an index that stays names it"
        elif foreign := [x for x in version.tags if not _IMMUTABLE.fullmatch(x)
                         and not _ABOUT.fullmatch(x)]:  # fmt: skip
            why = f"nothing is known of the tag {foreign[0]}"
        if why:
            kept[version.digest] = why
    for version in versions:
        about = [match[1] for x in version.tags if (match := _ABOUT.fullmatch(x))]
        if any(f"sha256:{digest}" in kept for digest in about):
            kept.setdefault(version.digest, "it is about an image that stays")
    gone = [x for x in versions if x.digest not in kept]
    return CleanupPlan(
        tuple(sorted(gone, key=lambda x: (not _is_image(x), x.tags, x.digest))),
        tuple((x, kept[x.digest]) for x in versions if x.digest in kept),
    )


def _is_image(version: StoredManifest) -> bool:
    return any(_IMMUTABLE.fullmatch(tag) for tag in version.tags)


def _age(version: StoredManifest, pushed: dict[str, str]) -> str:
    dates = [tag for tag in version.tags if _IMMUTABLE.fullmatch(tag)]
    return pushed.get(version.digest[7:14]) or max(dates)


def plan_cleanup(
    history: Journal, store: ImageStore, keep_last: int, pinned: set[str]
) -> CleanupPlan:
    """Plan a cleanup. Reads only.

    Raises:
        HiggsError: something could not be read: then nothing may be deleted.
    """
    repository = history.repository
    entries = history.read(record_tags.is_move)  # first: apply() notices later promotions
    versions = store.versions()
    moves = [x.record for x in entries]
    promoted = {x.digest for x in moves if isinstance(x, Promote | Rollback)}
    promoted |= {x.previous for x in moves if isinstance(x, Promote | Rollback) and x.previous}
    digests = {x.digest for x in versions}
    named = [x.digest for x in versions if x.tags and not any(map(record_tags.is_record, x.tags))]
    children: set[str] = set()
    for manifest in repository.each(repository.manifest, named):
        if manifest and manifest.get("mediaType") in INDEX_TYPES:
            children |= {x["digest"] for x in manifest["manifests"]} & digests
    found = plan(versions, keep_last, promoted, pinned, children)
    return replace(found, moves=tuple(x.tag for x in entries))


def apply(history: Journal, store: ImageStore, planned: CleanupPlan) -> list[StoredManifest]:
    """Delete what a plan says; run again it goes on with what is left.

    Raises:
        PromotionConflictError: a promotion is under way, or came after the plan was made.
        RegistryError: some were refused (GitHub keeps what was pulled 5000 times); the others went.
        HiggsError: the registry failed; what was deleted until then is gone.
    """

    def delete(version: StoredManifest) -> str:
        log.info("cleanup: deleting %s %s", version.digest, " ".join(version.tags))
        try:
            store.delete(version)
        except RegistryError as error:
            if type(error) is not RegistryError:  # one that all the others would meet, too
                raise
            return f"{version.digest[7:19]} ({error.message})"
        return ""

    deleted: list[StoredManifest] = []
    refused: list[str] = []
    if planned.delete:
        lease.RegistryTagStore(history).propagate()  # a promotion may be older than the plan
    interval = 0.0 if history.repository.is_local else CHECK_SECONDS
    due = time.monotonic()
    for start in range(0, len(planned.delete), store.at_once):
        batch = planned.delete[start : start + store.at_once]
        if time.monotonic() >= due:
            _require_quiet(history, planned)
            due = time.monotonic() + interval
        for version, refusal in zip(batch, history.repository.each(delete, batch), strict=True):
            if refusal:
                refused.append(refusal)
            else:
                deleted.append(version)
    if refused:
        raise RegistryError(
            f"{len(deleted)} were deleted, {len(refused)} were not: {'; '.join(refused)}",
            "an image that can never be deleted can be kept: name it in a file for --pins",
        )
    return deleted


def _require_quiet(history: Journal, planned: CleanupPlan) -> None:
    ends = record_tags.outcomes(history.repository.tags())
    if busy := [tag for tag, end in ends.items() if end is None]:
        raise PromotionConflictError(
            f"a promotion is under way: {busy[0]}", "run again when it has ended"
        )
    if new := ends.keys() - set(planned.moves):
        raise PromotionConflictError(
            f"a promotion came after the plan was made: {min(new)}", "run again"
        )
