"""Find an image for a machine without an engine: in a layout, or in a registry."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from higgs_image.build import image as build_image
from higgs_image.errors import UsageError
from higgs_image.oci import artifacts, layout
from higgs_image.oci.layout import Image
from higgs_image.oci.reference import split
from higgs_image.smoke.record import SmokeImage
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayersOnDisk:
    """An image in an OCI layout of this machine.

    Attributes:
        reference: the name by which it was asked for.
        folder: the layout.
        image: its manifest.
    """

    reference: str
    folder: Path
    image: Image

    @property
    def config(self) -> dict[str, Any]:
        """How its containers are started: Entrypoint, Cmd, Env and so on."""
        found: dict[str, Any] = layout.document(self.folder, self.image.config_digest)["config"]
        return found

    @property
    def identity(self) -> SmokeImage:
        """The image as a record names it."""
        return SmokeImage.of(self.reference, self.image.digest, self.image.labels)


def find(workspace: Workspace, reference: str) -> LayersOnDisk:
    """Return an image's layers; one in a registry is pulled.

    Args:
        workspace: has the layout of the last build, and takes what is pulled.
        reference: folder of a layout, name of an image in a registry, or empty: the last build.

    Raises:
        UsageError: no image was built yet, or the layout does not hold one image.
        RegistryNotFoundError: the registry does not have it.
        BuildError: the layout is damaged.
    """
    if not reference:
        return _last_built(workspace)
    folder = Path(reference)
    if folder.is_dir():
        return LayersOnDisk(reference, folder, layout.read(folder, _only_manifest(folder)))
    name, what = split(reference)
    with artifacts.open_repository(name) as repository:
        digest, _ = repository.find(what)
        goal = workspace.build / "pulled" / digest.removeprefix("sha256:")[:12]
        log.info("pull: %s", repository.reference(digest))
        goal.parent.mkdir(parents=True, exist_ok=True)
        repository.pull(digest, goal, "image")
    return LayersOnDisk(reference, goal, layout.read(goal, digest))


def _last_built(workspace: Workspace) -> LayersOnDisk:
    found = build_image.last_built(workspace)
    if found is None:
        raise UsageError(
            "no image was built yet",
            "build one: ./inv build; or name one: ./inv gpu-check --image IMAGE",
        )
    place, compression = found
    digest = str(place.read_state(f"build-{place.product(compression)}").get("digest"))
    folder = place.layout(compression)
    return LayersOnDisk(digest, folder, layout.read(folder, digest))


def _only_manifest(folder: Path) -> str:
    try:
        entries = json.loads((folder / "index.json").read_bytes())["manifests"]
        [digest] = [str(x["digest"]) for x in entries]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{folder} is not an OCI layout with one image",
            "name the folder of one, such as build/oci-zstd, or an image in a registry",
        ) from None
    return digest
