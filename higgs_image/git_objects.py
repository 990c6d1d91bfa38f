"""Git's object ids, computed from files alone."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path


def git_blob(data: bytes) -> bytes:
    """Return the binary id that git gives a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).digest()


def git_tree_ids(root: Path, submodules: Mapping[str, str]) -> dict[str, str]:
    """Compute git's object ids of a work tree from its files alone.

    Nothing of `.git` is trusted: a changed, added, missing or re-moded file changes the id of
    every folder above it, so one comparison with the pinned id proves the whole checkout.

    Args:
        root: the work tree.
        submodules: path to commit of each submodule; their folders are empty, as git leaves them.

    Returns:
        Hexadecimal ids of the root (key `""`), of each folder and of each file below it,
        keyed by path.

    Raises:
        OSError: something cannot be read, or is neither file nor folder nor symbolic link.
    """
    ids: dict[str, str] = {}

    def visit(folder: Path, prefix: str) -> bytes | None:
        entries: list[tuple[bytes, bytes]] = []
        for entry in os.scandir(folder):
            path = prefix + entry.name
            name = os.fsencode(entry.name)
            if path == ".git":
                continue
            is_folder = entry.is_dir(follow_symlinks=False)
            if path in submodules and is_folder and not any(Path(entry.path).iterdir()):
                mode, oid, key = b"160000", bytes.fromhex(submodules[path]), name
            elif entry.is_symlink():
                target = os.fsencode(os.readlink(entry.path))  # noqa: PTH115 (bytes wanted)
                mode, oid, key = b"120000", git_blob(target), name
            elif entry.is_dir():
                below = visit(Path(entry.path), path + "/")
                if below is None:  # git does not record empty folders
                    continue
                mode, oid, key = b"40000", below, name + b"/"
            elif not entry.is_file():
                raise OSError(f"{entry.path} is neither a file nor a folder")
            else:
                executable = entry.stat().st_mode & stat.S_IXUSR
                mode = b"100755" if executable else b"100644"
                oid, key = git_blob(Path(entry.path).read_bytes()), name
            ids[path] = oid.hex()
            entries.append((key, mode + b" " + name + b"\0" + oid))
        if not entries:
            return None
        body = b"".join(line for _, line in sorted(entries))
        return hashlib.sha1(b"tree %d\0" % len(body) + body, usedforsecurity=False).digest()

    top = visit(root, "")
    ids[""] = top.hex() if top else ""
    return ids
