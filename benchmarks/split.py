"""Spread an image over other layers, to measure what that does to a pull (benchmarks/pull.py).

    .venv/bin/python -m benchmarks.split build/oci-zstd DIGEST FOLDER cudnn+cublas+cuda torch/2

`a+b` puts layers that follow one another into one; `a/2` spreads a layer over two of about the same
unpacked size. All others stay as they are. The result is an OCI layout with zstd layers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from backports import zstd

from higgs_image.files import sha256_bytes
from higgs_image.oci import layer_archive, layout

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+zstd"
OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.nb_workers: 2,
}

Entry = tuple[tarfile.TarInfo, IO[bytes] | None]


class Blob(NamedTuple):
    """A layer in the manifest and in the configuration."""

    descriptor: dict[str, Any]
    unpacked: str


class Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write to the file."""
        self._hash.update(data)
        return self._file.write(data)

    def digest(self) -> str:
        """Return the digest so far."""
        return f"sha256:{self._hash.hexdigest()}"


def entries(root: Path, blobs: Iterable[Blob]) -> Iterator[Entry]:
    """Yield what is in the layers, in their order."""
    for blob in blobs:
        with layer_archive.open_layer(root, blob.descriptor["digest"]) as tar:
            for entry in tar:
                yield entry, tar.extractfile(entry) if entry.isreg() else None


def write(root: Path, content: Iterable[Entry]) -> Blob:
    """Write one layer to the layout."""
    path = root / "new"
    with path.open("wb") as file:
        packed = Hashed(file)
        with zstd.ZstdFile(cast("IO[bytes]", packed), "w", options=OPTIONS) as stream:
            unpacked = Hashed(cast("IO[bytes]", stream))
            with tarfile.open(fileobj=cast("IO[bytes]", unpacked), mode="w|") as tar:
                for entry, data in content:
                    tar.addfile(entry, data)
    size = path.stat().st_size
    path.rename(layout.blob(root, packed.digest()))
    return Blob(
        {"mediaType": MEDIA_TYPE, "digest": packed.digest(), "size": size}, unpacked.digest()
    )


def spread(root: Path, blob: Blob, count: int) -> list[Blob]:
    """Write a layer as several of about the same unpacked size."""
    total = sum(entry.size for entry, _ in entries(root, [blob]))

    def part(number: int) -> Iterator[Entry]:
        before = 0
        for entry, data in entries(root, [blob]):
            if min(before * count // total, count - 1) == number:
                yield entry, data
            before += entry.size

    return [write(root, part(number)) for number in range(count)]


def main() -> None:
    """Write the image with other layers; print its digest and their sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("layout", type=Path, help="OCI layout of the image")
    parser.add_argument("digest", help="its digest")
    parser.add_argument("target", type=Path, help="a new folder")
    parser.add_argument("changes", nargs="*", help="such as cudnn+cublas or torch/2")
    given = parser.parse_args()
    root = given.target
    shutil.copytree(given.layout / "blobs", root / "blobs", copy_function=os.link)
    shutil.copy(given.layout / "oci-layout", root)
    manifest = layout.document(root, given.digest)
    config = layout.document(root, manifest["config"]["digest"])
    names = [layer.name for layer in layout.read(root, given.digest).layers]
    blobs = list(map(Blob, manifest["layers"], config["rootfs"]["diff_ids"]))
    for change in given.changes:
        name, _, count = change.partition("/")
        wanted = name.split("+")
        at = names.index(wanted[0])
        end = at + len(wanted)
        if names[at:end] != wanted:
            parser.error(f"{change}: the layers are {', '.join(names)}")
        new = (
            spread(root, blobs[at], int(count))
            if count
            else [write(root, entries(root, blobs[at:end]))]
        )
        blobs[at:end] = new
        names[at:end] = [name] * len(new)
    config["rootfs"]["diff_ids"] = [blob.unpacked for blob in blobs]
    config.pop("history", None)
    manifest["config"] |= _json_blob(root, config)
    manifest["layers"] = [blob.descriptor for blob in blobs]
    entry = {"mediaType": layout.MANIFEST, **_json_blob(root, manifest)}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    for name, blob in zip(names, blobs, strict=True):
        print(f"{name} {blob.descriptor['size'] / layout.MB:.1f} MB")
    print(entry["digest"])


def _json_blob(root: Path, content: object) -> dict[str, Any]:
    data = json.dumps(content).encode()
    digest = f"sha256:{sha256_bytes(data)}"
    layout.blob(root, digest).write_bytes(data)
    return {"digest": digest, "size": len(data)}


if __name__ == "__main__":
    main()
