"""Build the same lock again and compare: the same digest, or the first file that differs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from higgs_image import versions
from higgs_image.attest import layer_files, sbom
from higgs_image.oci import layout
from higgs_image.oci.artifacts import Repository
from higgs_image.oci.layout import BuiltImage
from higgs_image.workspace import Workspace


@dataclass(frozen=True)
class Comparison:
    """The differences between an image and one built here.

    Attributes:
        image: digest of the image.
        rebuilt: digest of what was built here.
        layer: name of the first layer that differs; empty if none does.
        file: the first file in it that differs, and how.
        packages: packages that differ, one line each; usually because a package archive has newer
            versions.
    """

    image: str
    rebuilt: str
    layer: str = ""
    file: str = ""
    packages: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Both have the same digest."""
        return self.image == self.rebuilt

    def text(self) -> str:
        """Return the comparison as text."""
        if self.same:
            return f"built again: the same digest, {self.rebuilt}"
        lines = [
            "built again: ANOTHER digest",
            f"  image    {self.image}",
            f"  rebuilt  {self.rebuilt}",
            f"  first difference: {self.layer}" + (f": {self.file}" if self.file else ""),
        ]
        if self.packages:
            lines += ["  packages that differ:", *(f"    {x}" for x in self.packages)]
        return "\n".join(lines)


def compare(
    repository: Repository, digest: str, built: BuiltImage, workspace: Workspace
) -> Comparison:
    """Compare an image in a registry with one that was built here.

    The image's layers are fetched only where the digests differ.

    Raises:
        HiggsError: the registry failed.
    """
    if built.image.digest == digest:
        return Comparison(digest, digest)
    with workspace.scratch("rebuild") as root:
        repository.pull(digest, root, "image")
        image = layout.read(root, digest)
        layer, file = first_difference(root, image, built.layout, built.image)
        old = {f"{x.kind} {x.name}": x.version for x in sbom.packages(root, image)[0]}
    new = {f"{x.kind} {x.name}": x.version for x in sbom.packages(built.layout, built.image)[0]}
    return Comparison(digest, built.image.digest, layer, file, tuple(versions.changes(old, new)))


def first_difference(
    old_root: Path, old: layout.Image, new_root: Path, new: layout.Image
) -> tuple[str, str]:
    """Return name of the first layer that differs, and the first file in it with what differs."""
    for before, after in itertools.zip_longest(old.layers, new.layers):
        if before is None or after is None:
            return (before or after).name, "one image has it, the other has not"
        if before.digest == after.digest:
            continue
        file = _first_file(
            list(layer_files.members(old_root, before.digest)),
            list(layer_files.members(new_root, after.digest)),
        )
        return after.name, file or "the same files, compressed otherwise"
    return "configuration", _first_key(old_root, old, new_root, new)


def _first_file(old: list[layer_files.Member], new: list[layer_files.Member]) -> str:
    before, after = ({x.path: x for x in side} for side in (old, new))
    # A compiled file comes after its source: the source is what a person wants to see.
    for path in sorted(before.keys() | after.keys(), key=lambda x: (x.endswith(".pyc"), x)):
        one, two = before.get(path), after.get(path)
        if one is None or two is None:
            return f"/{path} is only in the {'rebuilt one' if one is None else 'image'}"
        for name in ("kind", "mode", "owner", "target", "size", "sha256", "modified"):
            if getattr(one, name) != getattr(two, name):
                return f"/{path}: {name} {getattr(one, name)} -> {getattr(two, name)}"
    if [x.path for x in old] != [x.path for x in new]:
        return "the order of the files"
    return ""


def _first_key(old_root: Path, old: layout.Image, new_root: Path, new: layout.Image) -> str:
    for name in sorted(old.labels.keys() | new.labels.keys()):
        if old.labels.get(name) != new.labels.get(name):
            return f"label {name}: {old.labels.get(name)} -> {new.labels.get(name)}"
    texts = [layout.blob(root, image.config_digest).read_text()
             for root, image in ((old_root, old), (new_root, new))]  # fmt: skip
    pairs = enumerate(zip(*texts, strict=False))
    where = next((i for i, (a, b) in pairs if a != b), min(map(len, texts)))
    return f"at byte {where}: {texts[0][where : where + 60]!r} -> {texts[1][where : where + 60]!r}"
