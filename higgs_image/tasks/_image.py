"""What tasks on pushed images share: flags, the repository, and its journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.output import JSON_HELP, setting

if TYPE_CHECKING:
    from higgs_image.oci.artifacts import Repository
    from higgs_image.release.journal import Journal

REGISTRY_HELP = {
    "registry": "registry and path (default: REGISTRY, then invoke.yaml)",
    "name": "name of the image (default: IMAGE_NAME, then invoke.yaml)",
    "json": JSON_HELP,
}
CONDITIONS_HELP = {
    "device_class": "gpu or cpu: on which the smoke test must have passed (default: DEVICE_CLASS, "
    "then invoke.yaml)",
    "force": "override refusals; requires --reason; recorded in the journal",
    "reason": "why; recorded in the journal",
    "rehearsal": "only with a registry on loopback: allow a fake fork and overridden builds",
}
IMAGE_HELP = "digest or immutable tag of a pushed image, or its full name"


def target_of(c: Context, registry: str | None, name: str | None) -> str:
    """Return the repository that flags or settings name.

    Raises:
        UsageError: they name none.
    """
    from higgs_image.errors import UsageError
    from higgs_image.oci import reference

    found = setting(c, "registry", registry)
    if not found:
        raise UsageError(
            "no registry is set", "set REGISTRY=ghcr.io/your-org, or use --registry or invoke.yaml"
        )
    return reference.repository(found, setting(c, "image_name", name))


@contextmanager
def open_image(
    c: Context, image: str, registry: str | None, name: str | None
) -> Iterator[tuple[Repository, str]]:
    """Yield repository and tag or digest; the full name of an image names its repository itself."""
    from higgs_image.oci.artifacts import open_repository
    from higgs_image.oci.reference import split

    target, what = split(image) if "/" in image else (target_of(c, registry, name), image)
    with open_repository(target) as repository:
        yield repository, what


@contextmanager
def open_journal(c: Context, registry: str | None, name: str | None) -> Iterator[Journal]:
    """Yield the journal of the repository that flags or settings name."""
    from higgs_image.oci.artifacts import open_repository

    with open_repository(target_of(c, registry, name)) as repository:
        yield journal_of(repository)


def journal_of(repository: Repository) -> Journal:
    """Return the journal of a repository."""
    from higgs_image.release.journal import Journal

    return Journal(repository, current_workspace().build / "journal")
