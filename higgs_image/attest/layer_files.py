"""The files in an image's layers, read from an OCI layout without an engine or unpacking."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import cast

from higgs_image.oci import layout
from higgs_image.oci.layer_archive import OPAQUE, WHITEOUT, member_path, open_layer


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
        with open_layer(root, layer.digest) as tar:
            for entry in tar:
                path = member_path(entry)
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


def members(root: Path, digest: str) -> Iterator[Member]:
    """Yield every entry of one layer, in its order, with the hash of its content."""
    with open_layer(root, digest) as tar:
        for entry in tar:
            content = ""
            stream = tar.extractfile(entry) if entry.isreg() else None
            if stream is not None:
                content = hashlib.file_digest(cast(BufferedReader, stream), "sha256").hexdigest()
            kind = (
                "file" if entry.isreg() else "folder" if entry.isdir()
                else "link" if entry.issym() or entry.islnk() else "other"
            )  # fmt: skip
            yield Member(
                member_path(entry), kind, entry.mode, f"{entry.uid}:{entry.gid}", entry.mtime,
                entry.size, entry.linkname, content,
            )  # fmt: skip


def _remove(found: dict[str, bytes], prefix: str) -> None:
    for path in [x for x in found if x.startswith(prefix)]:
        del found[path]
