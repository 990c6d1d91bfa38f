"""OCI image layouts: folders that hold images before they are pushed or loaded.

The layout is the product of a build: its manifest digest is what is run, tested and pushed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from higgs_image.checkout import UNKNOWN, Checkout
from higgs_image.errors import BuildError
from higgs_image.files import sha256_bytes, sha256_file, write_atomically

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"

MB = 1e6


@dataclass(frozen=True)
class BuiltImage:
    """What a build left behind.

    Attributes:
        image: digest and layers.
        layout: the OCI layout that holds it.
        tag: immutable tag; marked when the build was overridden.
        compression: gzip or zstd.
        overridden: it was built with something other than the lock says; never released.
        skipped: nothing had changed, nothing was built.
        seconds: how long each stage took.
        checkout: the project's commit, and whether its work tree was clean, when it was built.
        provenance: what BuildKit says of it: an in-toto statement.
    """

    image: Image
    layout: Path
    tag: str
    compression: str
    overridden: bool
    skipped: bool
    seconds: dict[str, float] = field(default_factory=dict)
    checkout: Checkout = UNKNOWN
    provenance: Path | None = None


@dataclass(frozen=True)
class ImageLayer:
    """One layer of an image.

    Attributes:
        name: the build step that made it; `base` for those of the base image.
        digest: of the compressed blob.
        size: compressed size in bytes.
    """

    name: str
    digest: str
    size: int


@dataclass(frozen=True)
class Image:
    """An image manifest in a layout.

    Attributes:
        digest: of the manifest; the image's identity everywhere.
        config_digest: of the configuration.
        layers: from the base upwards.
        labels: of the configuration.
    """

    digest: str
    config_digest: str
    layers: tuple[ImageLayer, ...]
    labels: dict[str, str]

    @property
    def size(self) -> int:
        """Compressed size of all layers in bytes."""
        return sum(layer.size for layer in self.layers)


STEP = re.compile(r"(?:/build/step\.py \w+ |/packages/)([\w-]+)")
"""Finds the name of its layer in an instruction of the Dockerfile."""


def blob(layout: Path, digest: str) -> Path:
    """Return where a layout keeps the content with this digest."""
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value


def read(layout: Path, digest: str) -> Image:
    """Read an image from a layout, making sure that every blob is there and whole in size.

    Manifest and configuration are compared by content, too; the layers by `damaged_blobs`.

    Raises:
        BuildError: the layout lacks something or is damaged.
    """
    try:
        manifest = document(layout, digest)
        config = document(layout, manifest["config"]["digest"])
        for entry in [manifest["config"], *manifest["layers"]]:
            found = blob(layout, entry["digest"]).stat().st_size
            if found != entry["size"]:
                raise BuildError(
                    f"{layout}: blob {entry['digest']} has {found} bytes, not {entry['size']}",
                    f"remove {layout} and build again",
                )
        return describe(digest, manifest, config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(
            f"{layout} does not hold the image {digest} whole: {error}",
            f"remove {layout} and build again",
        ) from None


def damaged_blobs(layout: Path) -> list[Path]:
    """Return the blobs of a layout whose content does not have their digest; reads all of them."""
    blobs = sorted((layout / "blobs" / "sha256").glob("*"))
    with ThreadPoolExecutor() as pool:
        return [
            x
            for x, sha256 in zip(blobs, pool.map(sha256_file, blobs), strict=True)
            if sha256 != x.name
        ]


def require_undamaged(layout: Path) -> None:
    """Refuse a layout in which a blob is damaged.

    Raises:
        BuildError: naming the first one.
    """
    for path in damaged_blobs(layout):
        raise BuildError(
            f"{path} is damaged: its content does not have the digest that is its name",
            "run ./inv build again, which rebuilds it; if it happens again, check the disk",
        )


def document(layout: Path, digest: str) -> dict[str, Any]:
    """Return a JSON document of a layout, compared with its digest.

    Raises:
        OSError: it is not there.
        ValueError: its content does not have that digest, or is not JSON.
    """
    data = blob(layout, digest).read_bytes()
    if f"sha256:{sha256_bytes(data)}" != digest:
        raise ValueError(f"the content of {digest} has another digest")
    found: dict[str, Any] = json.loads(data)
    return found


def describe(digest: str, manifest: dict[str, Any], config: dict[str, Any]) -> Image:
    """Join a manifest and its configuration to an `Image`."""
    steps = [h.get("created_by", "") for h in config.get("history", []) if not h.get("empty_layer")]
    names = [match[1] if (match := STEP.search(step)) else "base" for step in steps]
    names = ["base"] * (len(manifest["layers"]) - len(names)) + names
    layers = tuple(
        ImageLayer(name, entry["digest"], entry["size"])
        for name, entry in zip(names, manifest["layers"], strict=True)
    )
    labels = config.get("config", {}).get("Labels") or {}
    return Image(digest, manifest["config"]["digest"], layers, labels)


def keep_only(layout: Path, image: Image, reference: str) -> None:
    """Make one image the layout's only one, named `reference`, and drop blobs of earlier ones."""
    manifest = blob(layout, image.digest)
    entry = {
        "mediaType": json.loads(manifest.read_bytes())["mediaType"],
        "digest": image.digest,
        "size": manifest.stat().st_size,
        "annotations": {"org.opencontainers.image.ref.name": reference},
    }
    index = {"schemaVersion": 2, "manifests": [entry]}
    write_atomically(layout / "index.json", json.dumps(index).encode())
    write_atomically(layout / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    used = {image.digest, image.config_digest, *(layer.digest for layer in image.layers)}
    for path in (layout / "blobs" / "sha256").iterdir():
        if f"sha256:{path.name}" not in used:
            path.unlink()


def descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    """Return what a manifest or index says of a blob with this content."""
    return {
        "mediaType": media_type,
        "digest": f"sha256:{sha256_bytes(data)}",
        "size": len(data),
    }


def create(layout: Path) -> None:
    """Make an empty layout."""
    (layout / "blobs" / "sha256").mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def add(layout: Path, data: bytes, media_type: str) -> dict[str, Any]:
    """Write a blob into a layout and return its descriptor."""
    found = descriptor(data, media_type)
    blob(layout, found["digest"]).write_bytes(data)
    return found


def add_image(
    layout: Path, config: dict[str, Any], layers: Sequence[dict[str, Any]], name: str
) -> Image:
    """Make one image of layers that the layout has its only one, and return it.

    Args:
        layout: from `create`.
        config: the image's configuration.
        layers: descriptors, from the base upwards.
        name: the image's name in the layout.
    """
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": add(layout, _encode(config), CONFIG),
        "layers": list(layers),
    }
    image = read(layout, str(add(layout, _encode(manifest), MANIFEST)["digest"]))
    keep_only(layout, image, name)
    return image


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
