"""The build context on disk: what is in it, compared with what should be, and written whole.

It is compared by content, not by date: a change by hand is noticed, and an equal context is left
alone.
"""

from __future__ import annotations

import difflib
import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from higgs_image.errors import DriftError
from higgs_image.files import files_below, new_folder, sha256_bytes
from higgs_image.lockfile import Lock
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildContext:
    """A rendered build context.

    Attributes:
        path: the folder.
        sha256: hash over names, modes and contents of everything in it.
        changed: files that differed from the previous context.
    """

    path: Path
    sha256: str
    changed: list[str] = field(default_factory=list)


Files = dict[str, tuple[bytes, int]]
"""Path in the context to content and mode."""


def digest(files: Files) -> str:
    """Return one SHA-256 over names, modes and contents."""
    return sha256_bytes(
        "".join(f"{sha256_bytes(d)} {m:o} {p}\n" for p, (d, m) in files.items()).encode()
    )


def read(path: Path) -> Files:
    """Read an existing context; an absent one is empty."""
    if not path.is_dir():
        return {}
    return {file.relative_to(path).as_posix(): _read(file) for file in files_below(path)}


def _read(path: Path) -> tuple[bytes, int]:
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return path.read_bytes(), stat.S_IMODE(mode)
    return b"", mode  # a link or a special file: never what was written


@dataclass(frozen=True)
class Drift:
    """What differs between the context on disk and the one that it should be.

    Attributes:
        path: the folder.
        files: names of files that are missing, extra or different.
        diff: unified diff from the first to the second; binary files by name only.
    """

    path: Path
    files: list[str]
    diff: str

    def require_none(self) -> None:
        """Refuse a context that differs.

        Raises:
            DriftError: naming the first files.
        """
        if self.files:
            more = f" and {len(self.files) - 3} more" if len(self.files) > 3 else ""
            raise DriftError(
                f"{self.path} differs from what versions.lock and the templates give: "
                f"{', '.join(self.files[:3])}{more}",
                "write it again with: ./inv render",
            )


def drift(path: Path, wanted: Files) -> Drift:
    """Compare a context on disk with what it should be."""
    found = read(path)
    files = _different(wanted, found)
    return Drift(path, files, "\n".join(line for x in files for line in _diff(x, wanted, found)))


def _different(wanted: Files, found: Files) -> list[str]:
    return sorted(p for p in wanted.keys() | found.keys() if wanted.get(p) != found.get(p))


def _diff(path: str, wanted: Files, found: Files) -> list[str]:
    (old, old_mode), (new, new_mode) = (side.get(path, (b"", 0)) for side in (found, wanted))
    before = f"a/{path}" if path in found else "/dev/null"
    after = f"b/{path}" if path in wanted else "/dev/null"
    try:
        texts = old.decode().split("\n"), new.decode().split("\n")
    except UnicodeDecodeError:
        return [f"Binary files a/{path} and b/{path} differ"]
    lines = list(difflib.unified_diff(*texts, before, after, lineterm=""))
    if old_mode != new_mode:
        lines.insert(0, f"mode {old_mode:o} -> {new_mode:o}: {before} -> {after}")
    return lines


def write(workspace: Workspace, lock: Lock, files: Files) -> BuildContext:
    """Replace the context atomically; an equal one is left unchanged."""
    path = workspace.context
    with workspace.exclusive("context"):
        changed = _different(files, read(path))
        if changed:
            _write(path, lock, files)
    context = BuildContext(path, digest(files), changed)
    log.info("render: %s (%d files, %d changed)", path, len(files), len(changed))
    return context


def _write(path: Path, lock: Lock, files: Files) -> None:
    with new_folder(path) as new:
        for name, (data, mode) in files.items():
            goal = new / name
            goal.parent.mkdir(parents=True, exist_ok=True)
            goal.write_bytes(data)
            goal.chmod(mode)
        # Dates and modes of folders do not reach the image, but caches see them. BuildKit
        # takes a file of equal size and date for unchanged and does not read it again: so
        # each file's date is made of its content.
        for name, (data, _) in files.items():
            content_date = int(sha256_bytes(data)[:15], 16)  # nanoseconds
            os.utime(new / name, ns=(content_date, content_date))
        for folder, _, _ in os.walk(new):
            Path(folder).chmod(0o755)
            os.utime(folder, (lock.fork.epoch, lock.fork.epoch))
