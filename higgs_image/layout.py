"""OCI image layouts: what a build leaves behind, what is pushed, and how large it is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from higgs_image.errors import BudgetError, BuildError
from higgs_image.hashing import sha256_bytes
from higgs_image.layers import Layers
from higgs_image.workspace import write_atomically

MB = 1e6


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


_STEP = re.compile(r"/build/step\.py \w+ ([\w-]+)")


def blob(layout: Path, digest: str) -> Path:
    """Return where a layout keeps the content with this digest."""
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value


def read(layout: Path, digest: str) -> Image:
    """Read an image from a layout, making sure that every blob is there and whole in size.

    Manifest and configuration are compared by content, too; the layers' digests are computed
    where they are used (by skopeo).

    Raises:
        BuildError: the layout lacks something or is damaged.
    """
    try:
        manifest = _document(layout, digest)
        config = _document(layout, manifest["config"]["digest"])
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


def _document(layout: Path, digest: str) -> dict[str, Any]:
    data = blob(layout, digest).read_bytes()
    if f"sha256:{sha256_bytes(data)}" != digest:
        raise ValueError(f"the content of {digest} is another")
    document: dict[str, Any] = json.loads(data)
    return document


def describe(digest: str, manifest: dict[str, Any], config: dict[str, Any]) -> Image:
    """Join a manifest and its configuration to an `Image`."""
    steps = [h.get("created_by", "") for h in config.get("history", []) if not h.get("empty_layer")]
    names = [match[1] if (match := _STEP.search(step)) else "base" for step in steps]
    names = ["base"] * (len(manifest["layers"]) - len(names)) + names
    layers = tuple(
        ImageLayer(name, entry["digest"], entry["size"])
        for name, entry in zip(names, manifest["layers"], strict=True)
    )
    labels = config.get("config", {}).get("Labels") or {}
    return Image(digest, manifest["config"]["digest"], layers, labels)


def unwrap(layout: Path, digest: str) -> tuple[str, bytes]:
    """Return image manifest and provenance statement of an index that BuildKit wrote.

    Args:
        layout: the folder.
        digest: of the index.

    Returns:
        The digest of the image manifest, which the provenance does not change, and the in-toto
        statement about it.

    Raises:
        BuildError: it is no such index.
    """
    try:
        entries = _document(layout, digest)["manifests"]
        (image,) = [x for x in entries if _REFERS not in x.get("annotations", {})]
        (about,) = [x for x in entries if x.get("annotations", {}).get(_REFERS) == image["digest"]]
        (layer,) = _document(layout, about["digest"])["layers"]
        statement = blob(layout, layer["digest"]).read_bytes()
        (subject,) = json.loads(statement)["subject"]
        if f"sha256:{subject['digest']['sha256']}" != image["digest"]:
            raise ValueError(f"its provenance is of {subject['digest']['sha256']}")
        return str(image["digest"]), statement
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(
            f"{layout} does not hold an image with its provenance at {digest}: {error}",
            f"remove {layout} and build again",
        ) from None


def predicate(statement: bytes) -> bytes:
    """Return what an in-toto statement says of its subject, without the statement around it."""
    return json.dumps(json.loads(statement)["predicate"]).encode()


_REFERS = "vnd.docker.reference.digest"


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
    used = {image.digest, image.config_digest, *(layer.digest for layer in image.layers)}
    for path in (layout / "blobs" / "sha256").iterdir():
        if f"sha256:{path.name}" not in used:
            path.unlink()


def check_budget(image: Image, layers: Layers, compression: str) -> None:
    """Compare sizes with docker/layers.toml.

    Raises:
        BudgetError: naming everything that is too large, with both figures.
    """
    budget = layers.budget
    limits = {layer.name: layer.budget_mb for layer in layers.layer} | {
        "vllm": layers.wheel.budget_mb
    }
    over = [
        f"layer {layer.name} has {layer.size / MB:.0f} MB, its budget is {limits[layer.name]:.0f}"
        for layer in image.layers
        if layer.name in limits and layer.size > limits[layer.name] * MB
    ]
    over += [
        f"layer {layer.name} has {layer.size / MB:.0f} MB, no layer may have more than "
        f"{budget.largest_layer_mb:.0f}"
        for layer in image.layers
        if layer.size > budget.largest_layer_mb * MB
    ]
    whole = budget.gzip_mb if compression == "gzip" else budget.zstd_mb
    if image.size > whole * MB:
        over.append(
            f"the image has {image.size / MB:.0f} MB with {compression}, its budget is {whole:.0f}"
        )
    if over:
        raise BudgetError(
            "too large: " + "; ".join(over),
            "find out what grew (the sizes are listed above), or raise the budget in "
            "docker/layers.toml with a reason",
        )
