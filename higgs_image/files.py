"""Files and folders: digests, and writes that are complete or do not happen."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256_bytes(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(root: Path) -> list[Path]:
    """Return every file and symbolic link below `root`, sorted, without bytecode caches."""
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


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file next to its destination and rename it: readers see the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):  # by a run that was killed
        if left.suffix[1:].isdecimal() and _has_ended(int(left.suffix[1:])):
            left.unlink(missing_ok=True)
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:  # another user's process may not be signalled
        return isinstance(error, ProcessLookupError)
    return False


@contextmanager
def memory_file(data: bytes) -> Iterator[int]:
    """Yield the descriptor, for a child to inherit, of an anonymous file that only memory holds.

    A run that is killed leaves nothing behind.
    """
    fd = os.memfd_create("higgs-image", 0)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        os.set_inheritable(fd, True)
        yield fd
    finally:
        os.close(fd)


def replace_folder(new: Path, goal: Path) -> None:
    """Replace a folder with a finished one.

    A crash between the two renames leaves no folder at `goal`, never a part of one.
    """
    old = goal.with_name(f".{goal.name}.old")
    remove(old)
    if goal.exists() or goal.is_symlink():
        goal.rename(old)
    new.rename(goal)
    remove(old)


@contextmanager
def new_folder(goal: Path, leftovers: str = "") -> Iterator[Path]:
    """Yield an empty folder that replaces `goal` at the end, unless what is inside fails.

    Args:
        goal: may exist; hold a lock for it.
        leftovers: pattern of folders of killed runs beside it (default: those of this goal).
    """
    goal.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(goal.parent, f".{goal.name}.new-", leftovers) as new:
        yield new
        replace_folder(new, goal)


@contextmanager
def temporary_folder(parent: Path, prefix: str, leftovers: str = "") -> Iterator[Path]:
    """Yield an empty folder that everybody may read, and remove it at the end.

    Args:
        parent: the folder around it.
        prefix: how its name begins; hold a lock for it.
        leftovers: pattern of folders of killed runs beside it (default: those of this prefix).
    """
    for left in parent.glob(leftovers or f"{glob.escape(prefix)}*"):
        shutil.rmtree(left, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        new.chmod(0o755)
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with everything in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
