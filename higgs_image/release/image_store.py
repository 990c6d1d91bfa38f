"""Where images are listed and deleted: a registry, or GitHub's API for ghcr.io."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from higgs_image.github import api
from higgs_image.oci.artifacts import Repository
from higgs_image.oci.registry import CONNECTIONS


@dataclass(frozen=True)
class StoredManifest:
    """One manifest in the registry.

    Attributes:
        digest: of it.
        tags: all that name it; none for one that is reached by its digest alone.
        key: how the store names it.
    """

    digest: str
    tags: tuple[str, ...]
    key: str = ""


class ImageStore(Protocol):
    """Storage of the images, as far as they can be listed and deleted.

    Attributes:
        at_once: how many deletions may run at the same time.
    """

    at_once: int

    def versions(self) -> list[StoredManifest]:
        """Return every manifest that the store lists."""

    def delete(self, version: StoredManifest) -> None:
        """Delete a manifest with all its tags."""


class RegistryStore:
    """A registry that deletes by the distribution API. It lists tags only."""

    at_once = CONNECTIONS

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def versions(self) -> list[StoredManifest]:
        """Return what has a tag."""
        tags = self._repository.tags()
        digests = self._repository.each(self._repository.digest, tags)
        named: dict[str, list[str]] = {}
        for tag, digest in zip(tags, digests, strict=True):
            if digest is not None:
                named.setdefault(digest, []).append(tag)
        return [StoredManifest(digest, tuple(found)) for digest, found in named.items()]

    def delete(self, version: StoredManifest) -> None:
        """Delete by digest."""
        self._repository.delete(version.digest)


class GitHubStore:
    """ghcr.io, which deletes by GitHub's own API only, and lists what has no tag, too."""

    at_once = 1  # GitHub asks for one change after the other

    def __init__(self, repository: Repository) -> None:
        self._path = api.versions_path(repository.name)

    def versions(self) -> list[StoredManifest]:
        """Return every version of the package."""
        return [
            StoredManifest(
                str(entry["name"]),
                tuple(entry.get("metadata", {}).get("container", {}).get("tags", [])),
                str(entry["id"]),
            )
            for entry in api.pages(self._path)
        ]

    def delete(self, version: StoredManifest) -> None:
        """Delete a version."""
        api.call("DELETE", f"{self._path}/{version.key}")


def store_of(repository: Repository) -> ImageStore:
    """Return the store behind a repository."""
    on_github = repository.name.split("/")[0] == "ghcr.io"
    return GitHubStore(repository) if on_github else RegistryStore(repository)
