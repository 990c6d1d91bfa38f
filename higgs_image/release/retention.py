"""`invoke cleanup`: old images go; what was ever promoted, what is pinned, and the newest stay.

A registry deletes by digest, and every tag of that digest with it: so what is decided on is a
digest with all its tags, and one reason to keep is enough. Signatures and attestations stay and go
with the image that they are about. The journal always stays.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from higgs_image.errors import PromotionConflictError, RegistryError, UsageError
from higgs_image.github import api
from higgs_image.oci.artifacts import INDEX_TYPES, Repository
from higgs_image.release import journal, promote
from higgs_image.release.journal import Journal
from higgs_image.release.records import Promote, Rollback

log = logging.getLogger(__name__)

_IMMUTABLE = re.compile(r"\d{8}-[0-9a-f]{7}-[0-9a-f]{7}(-zstd)?(-dev-[0-9a-f]{7})?")
_ABOUT = re.compile(r"sha256-([0-9a-f]{64})(\.[a-z]+)?")
_PIN = re.compile(rf"sha256:[0-9a-f]{{64}}|\b{_IMMUTABLE.pattern}")


@dataclass(frozen=True)
class Version:
    """One manifest in the registry.

    Attributes:
        digest: of it.
        tags: all that name it; none for one that is reached by its digest alone.
        key: how the store names it.
    """

    digest: str
    tags: tuple[str, ...]
    key: str = ""


class Store(Protocol):
    """Where the images lie, as far as they can be listed and deleted."""

    def versions(self) -> list[Version]:
        """Return every manifest that the store lists."""

    def delete(self, version: Version) -> None:
        """Delete a manifest with all its tags."""


class RegistryStore:
    """A registry that deletes by the distribution API. It lists tags only."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def versions(self) -> list[Version]:
        """Return what has a tag."""
        tags = self._repository.tags()
        with ThreadPoolExecutor(max_workers=8) as pool:
            digests = list(pool.map(self._repository.digest, tags))
        named: dict[str, list[str]] = {}
        for tag, digest in zip(tags, digests, strict=True):
            if digest is not None:
                named.setdefault(digest, []).append(tag)
        return [Version(digest, tuple(found)) for digest, found in named.items()]

    def delete(self, version: Version) -> None:
        """Delete by digest."""
        self._repository.delete(version.digest)


class GitHubStore:
    """ghcr.io, which deletes by GitHub's own API only, and lists what has no tag, too."""

    def __init__(self, repository: Repository) -> None:
        self._path = api.versions_path(repository.name)

    def versions(self) -> list[Version]:
        """Return every version of the package."""
        return [
            Version(
                str(entry["name"]),
                tuple(entry.get("metadata", {}).get("container", {}).get("tags", [])),
                str(entry["id"]),
            )
            for entry in api.pages(self._path)
        ]

    def delete(self, version: Version) -> None:
        """Delete a version."""
        api.call("DELETE", f"{self._path}/{version.key}")


def store_of(repository: Repository) -> Store:
    """Return the store behind a repository."""
    on_github = repository.name.split("/")[0] == "ghcr.io"
    return GitHubStore(repository) if on_github else RegistryStore(repository)


@dataclass(frozen=True)
class Plan:
    """What a cleanup would do.

    Attributes:
        delete: images first, then what is about them.
        keep: what stays, each with its reason.
        moves: tags of the promotions and rollbacks that it knows of.
    """

    delete: tuple[Version, ...]
    keep: tuple[tuple[Version, str], ...]
    moves: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the plan as a person reads it."""
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
        UsageError: a file is not there: what it pins would be deleted.
    """
    found: set[str] = set()
    for path in paths:
        try:
            text = path.read_text(errors="replace")
        except OSError as error:
            raise UsageError(
                f"pin file {path}: {error.strerror}", "name a file that is there"
            ) from None
        found |= {match[0] for match in _PIN.finditer(text)}
    return found


def plan(
    versions: Sequence[Version],
    keep_last: int,
    promoted: set[str],
    pinned: set[str],
    children: set[str],
) -> Plan:
    """Decide what goes. Pure: the same lists give the same plan.

    Args:
        versions: everything that the store lists.
        keep_last: how many of the newest pushed images stay.
        promoted: digests that were ever promoted, or are about to be.
        pinned: digests and tags that somebody names.
        children: digests that an index names.
    """
    pushed = _pushed(versions)
    images = [x for x in versions if _is_image(x)]
    newest = sorted(images, key=lambda x: _age(x, pushed), reverse=True)[: max(keep_last, 0)]
    kept: dict[str, str] = {}
    for version in versions:
        why = ""
        if version.digest in promoted:
            why = "it was promoted"
        elif version.digest in pinned or pinned & set(version.tags):
            why = "a pin names it"
        elif any(tag.startswith(promote.MOVING) for tag in version.tags):
            why = "a moving tag names it"
        elif any(map(journal.is_record, version.tags)):
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
    return Plan(
        tuple(sorted(gone, key=lambda x: (not _is_image(x), x.tags, x.digest))),
        tuple((x, kept[x.digest]) for x in versions if x.digest in kept),
    )


def _is_image(version: Version) -> bool:
    return any(_IMMUTABLE.fullmatch(tag) for tag in version.tags)


def _pushed(versions: Sequence[Version]) -> dict[str, str]:
    """Return the time of the last push by the first digits of the digest, from the journal."""
    found: dict[str, str] = {}
    for tag in sorted(x for version in versions for x in version.tags):
        if journal.event_of(tag) == "push":
            _, when, _, digest, _ = tag.split("-")
            found[digest] = when
    return found


def _age(version: Version, pushed: dict[str, str]) -> str:
    dates = [tag for tag in version.tags if _IMMUTABLE.fullmatch(tag)]
    return pushed.get(version.digest[7:14]) or max(dates)


def look(
    repository: Repository, history: Journal, store: Store, keep_last: int, pinned: set[str]
) -> Plan:
    """Plan a cleanup. Reads only.

    Raises:
        HiggsError: something could not be read: then nothing may be deleted.
    """
    entries = history.read(_is_move)  # first: what is promoted from now on, apply() notices
    versions = store.versions()
    moves = [x.record for x in entries]
    promoted = {x.digest for x in moves if isinstance(x, Promote | Rollback)}
    promoted |= {x.previous for x in moves if isinstance(x, Promote | Rollback) and x.previous}
    children: set[str] = set()
    known = {x.digest for x in versions}
    for version in versions:
        if not any(map(journal.is_record, version.tags)) and version.tags:
            manifest = repository.manifest(version.digest) or {}
            if manifest.get("mediaType") in INDEX_TYPES:
                children |= {x["digest"] for x in manifest["manifests"]} & known
    found = plan(versions, keep_last, promoted, pinned, children)
    return replace(found, moves=tuple(x.tag for x in entries))


def apply(repository: Repository, store: Store, planned: Plan) -> list[Version]:
    """Delete what a plan says; run again it goes on with what is left.

    Raises:
        PromotionConflictError: a promotion is under way, or came after the plan was made.
        RegistryError: some were refused (GitHub keeps what was pulled 5000 times); the others went.
        HiggsError: the registry failed; what was deleted until then is gone.
    """
    deleted: list[Version] = []
    refused: list[str] = []
    for version in planned.delete:
        _require_quiet(repository, planned)
        log.info("cleanup: deleting %s %s", version.digest, " ".join(version.tags))
        try:
            store.delete(version)
        except RegistryError as error:
            if type(error) is not RegistryError:  # one that all the others would meet, too
                raise
            refused.append(f"{version.digest[7:19]} ({error.message})")
        else:
            deleted.append(version)
    if refused:
        raise RegistryError(
            f"{len(deleted)} were deleted, {len(refused)} were not: {'; '.join(refused)}",
            "what refuses for good can be kept: name it in a file for --pins",
        )
    return deleted


def _require_quiet(repository: Repository, planned: Plan) -> None:
    ends = journal.outcomes(repository.tags())
    if busy := [tag for tag, end in ends.items() if end is None]:
        raise PromotionConflictError(
            f"a promotion is under way: {busy[0]}", "run again when it has ended"
        )
    if new := ends.keys() - set(planned.moves):
        raise PromotionConflictError(
            f"a promotion came after the plan was made: {min(new)}", "run again"
        )


def _is_move(tag: str) -> bool:
    return journal.event_of(tag) in ("promote", "rollback")
