"""One layer of a layout as a stream of entries, whatever it is compressed with."""

from __future__ import annotations

import gzip
import posixpath
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from higgs_image.errors import BuildError
from higgs_image.oci import layout

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
"""Names that remove a file of the layers below, or everything in the folder."""


@contextmanager
def open_layer(root: Path, digest: str) -> Iterator[tarfile.TarFile]:
    """Yield a layer of a layout, to be read once from begin to end.

    Raises:
        BuildError: it cannot be read.
    """
    path = layout.blob(root, digest)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        with _unpacked(path, magic) as opened, tarfile.open(fileobj=opened, mode="r|") as tar:
            yield tar
    except (EOFError, tarfile.TarError, zstd.ZstdError, gzip.BadGzipFile) as error:
        raise _unreadable(root, digest, error) from None
    except OSError as error:
        if error.filename not in (None, str(path)):  # of what the caller writes
            raise
        raise _unreadable(root, digest, error) from None


def _unreadable(root: Path, digest: str, error: Exception) -> BuildError:
    return BuildError(
        f"layer {digest} in {root} cannot be read: {error}", f"remove {root}, then run again"
    )


def _unpacked(path: Path, magic: bytes) -> IO[bytes]:
    if magic == b"\x28\xb5\x2f\xfd":
        return cast("IO[bytes]", zstd.open(path, "rb"))
    if magic[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def member_path(entry: tarfile.TarInfo) -> str:
    """Return an entry's path below the image's root, without a leading slash."""
    return posixpath.normpath(entry.name).lstrip("/").removeprefix("./")
