"""Digests of bytes, files and trees. The only place that knows how each is made."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path


def sha256_bytes(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(root: Path) -> list[Path]:
    """Return every file and symbolic link below `root`, sorted, bytecode caches left out."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        found.extend(Path(folder) / name for name in names)
        found.extend(Path(folder) / name for name in folders if (Path(folder) / name).is_symlink())
    return sorted(found)


def tree_sha256(roots: Iterable[Path], base: Path) -> str:
    """Return one SHA-256 over names, modes and contents of every file below `roots`.

    Args:
        roots: files and folders.
        base: names are taken relative to it, so that the result does not depend on the machine.
    """
    total = hashlib.sha256()
    for root in sorted(roots):
        for path in files_below(root) if root.is_dir() else [root]:
            if path.is_symlink():
                kind, content = "l", sha256_bytes(os.fsencode(path.readlink()))
            else:
                kind = "x" if path.stat().st_mode & stat.S_IXUSR else "-"
                content = sha256_file(path)
            total.update(f"{content} {kind} {path.relative_to(base).as_posix()}\n".encode())
    return total.hexdigest()


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
            if path in submodules and entry.is_dir(follow_symlinks=False) and not os.listdir(entry):  # noqa: PTH208
                mode, oid, key = b"160000", bytes.fromhex(submodules[path]), name
            elif entry.is_symlink():
                target = os.fsencode(os.readlink(entry.path))  # noqa: PTH115 (bytes wanted)
                mode, oid, key = b"120000", git_blob(target), name
            elif entry.is_dir():
                below = visit(Path(entry.path), path + "/")
                if below is None:  # git knows no empty folders
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
