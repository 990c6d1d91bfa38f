"""Find the image to test and identify it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from higgs_image.build import image as build_image
from higgs_image.errors import EngineError, UsageError
from higgs_image.smoke.record import SmokeImage
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient

log = logging.getLogger(__name__)


def last_built(workspace: Workspace) -> str:
    """Return the engine's name of the image that was built last.

    Raises:
        UsageError: no image was built, or the engine does not have it any more.
    """
    found = build_image.last_built(workspace)
    hint = "build one: ./inv build; or name one: ./inv smoke IMAGE"
    if found is None:
        raise UsageError("no image was built yet", hint)
    place, compression = found
    digest = str(place.read_state(f"build-{place.product(compression)}").get("digest"))
    if build_image.engine_digest(digest) is None:
        raise UsageError(f"the engine does not have {digest}, which was built last", hint)
    return digest


def identify(client: DockerClient, reference: str) -> SmokeImage:
    """Return the identity of an image; one that the engine lacks is pulled.

    Raises:
        EngineError: neither the engine nor its registry has it.
    """
    from docker.errors import APIError, ImageNotFound

    try:
        try:
            found = client.images.get(reference)
        except ImageNotFound:
            log.info("smoke: pulling %s", reference)
            found = client.images.pull(reference)
    except APIError as error:
        raise EngineError(
            f"there is no image {reference}: {error.explanation or error}",
            "build it, load it, or log in to the registry that has it",
        ) from None
    digest = registry_digest(reference, str(found.id), found.attrs.get("RepoDigests") or [])
    return SmokeImage.of(reference, digest, found.labels or {})


def registry_digest(reference: str, identity: str, known: list[str]) -> str | None:
    """Return the digest of an image in a registry; None if it was never in one.

    The containerd store identifies images by that digest; the classic store knows only the digest
    of what it pulled.

    Args:
        reference: name by which the image was asked for.
        identity: the engine's id of it.
        known: names with digest, as the engine knows them.
    """
    name, _, digest = reference.rpartition("@")
    if name and digest.startswith("sha256:"):
        return digest
    digests = [entry.rpartition("@")[2] for entry in known]
    if identity in digests:
        return identity
    return digests[0] if digests else None
