"""Checks how the container was started: its folders and its shared memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from higgs_runtime import log
from higgs_runtime.errors import SettingError

TMPFS = "--tmpfs /tmp:exec"
"""Docker's flag for a temporary folder from which compiled code can be loaded."""


def require_temporary_folder() -> None:
    """Refuse a container in which /tmp is not writable: the server's processes meet there.

    Raises:
        SettingError: it is not writable.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise SettingError(
            "the folder /tmp is not writable", f"start a read-only container with {TMPFS}"
        ) from None


def is_executable(folder: Path) -> bool:
    """Return whether code in a folder, which may not exist yet, can be loaded: no noexec mount."""
    while not folder.exists():
        folder = folder.parent
    return not os.statvfs(folder).f_flag & os.ST_NOEXEC


def require_executable(folder: Path) -> None:
    """Refuse a folder from which the kernels that are compiled into it could not be loaded.

    Raises:
        SettingError: it is mounted with noexec, as Docker does with --tmpfs.
    """
    if not is_executable(folder):
        raise SettingError(
            f"compiled GPU kernels cannot be loaded from {folder}, which is mounted with noexec",
            f"start a read-only container with {TMPFS}, or mount a volume at /workspace",
        )


def warn_if_little_shared_memory(path: str = "/dev/shm") -> None:  # noqa: S108 (no file of ours)
    """Warn that several GPUs need more than the 64 MB that Docker gives by default."""
    try:
        total = shutil.disk_usage(path).total
    except OSError:
        return
    if total < 1 << 30:
        log.warning(
            f"{path} has {total / 1e6:.0f} MB, several GPUs need 1 GB; hint: start the container "
            "with --ipc host or --shm-size 1g"
        )
