"""The files in an image's layers, read from an OCI layout without an engine or unpacking."""

from __future__ import annotations

import gzip
import hashlib
import posixpath
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from higgs_image.errors import BuildError
from higgs_image.oci import layout

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True)
class Member:
    """One entry of a layer.

    Attributes:
        path: below the image's root, without a leading slash.
        kind: file, folder, link (symbolic or hard) or other.
        mode, owner, modified: as the layer has them; modified in seconds since 1970.
        size: in bytes.
        target: of a link.
        sha256: of a file's content; empty for everything else.
    """

    path: str
    kind: str
    mode: int
    owner: str
    modified: float
    size: int
    target: str
    sha256: str


def files(root: Path, image: layout.Image, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Return the content of wanted files as a container sees them: upper layers win.

    Args:
        root: the layout.
        image: the image in it.
        wanted: decides by the path, without a leading slash.
    """
    found: dict[str, bytes] = {}
    for layer in image.layers:
        with _tar(root, layer.digest) as tar:
            for entry in tar:
                path = _path(entry)
                folder, name = posixpath.split(path)
                if name == OPAQUE:
                    _remove(found, folder + "/")
                elif name.startswith(WHITEOUT):
                    gone = posixpath.join(folder, name.removeprefix(WHITEOUT))
                    found.pop(gone, None)
                    _remove(found, gone + "/")
                elif wanted(path):
                    stream = tar.extractfile(entry) if entry.isreg() else None
                    if stream is None:
                        found.pop(path, None)
                    else:
                        found[path] = stream.read()
    return found


def members(root: Path, digest: str) -> list[Member]:
    """Return every entry of one layer, in its order, with the hash of its content."""
    found = []
    with _tar(root, digest) as tar:
        for entry in tar:
            content = ""
            stream = tar.extractfile(entry) if entry.isreg() else None
            if stream is not None:
                content = _sha256(stream)
            kind = (
                "file" if entry.isreg() else "folder" if entry.isdir()
                else "link" if entry.issym() or entry.islnk() else "other"
            )  # fmt: skip
            found.append(
                Member(
                    _path(entry), kind, entry.mode, f"{entry.uid}:{entry.gid}", entry.mtime,
                    entry.size, entry.linkname, content,
                )
            )  # fmt: skip
    return found


@contextmanager
def _tar(root: Path, digest: str) -> Iterator[tarfile.TarFile]:
    path = layout.blob(root, digest)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        with _unpacked(path, magic) as opened, tarfile.open(fileobj=opened, mode="r|") as tar:
            yield tar
    except (OSError, EOFError, tarfile.TarError, zstd.ZstdError) as error:
        raise BuildError(
            f"layer {digest} in {root} cannot be read: {error}", f"remove {root}, then run again"
        ) from None


def _unpacked(path: Path, magic: bytes) -> IO[bytes]:
    if magic == b"\x28\xb5\x2f\xfd":
        return cast("IO[bytes]", zstd.open(path, "rb"))
    if magic[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def _sha256(stream: IO[bytes]) -> str:
    total = hashlib.sha256()
    while piece := stream.read(1 << 20):
        total.update(piece)
    return total.hexdigest()


def _path(entry: tarfile.TarInfo) -> str:
    return posixpath.normpath(entry.name).lstrip("/").removeprefix("./")


def _remove(found: dict[str, bytes], prefix: str) -> None:
    for path in [x for x in found if x.startswith(prefix)]:
        del found[path]
