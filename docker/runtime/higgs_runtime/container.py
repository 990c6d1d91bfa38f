"""Checks how the container was started: its temporary folder and its shared memory."""

from __future__ import annotations

import shutil
import tempfile

from higgs_runtime import log
from higgs_runtime.errors import SettingError


def require_temporary_folder() -> None:
    """Refuse a container in which /tmp is not writable: the server's processes meet there.

    Raises:
        SettingError: it is not writable.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise SettingError(
            "the folder /tmp is not writable", "start a read-only container with --tmpfs /tmp"
        ) from None


def warn_if_little_shared_memory(path: str = "/dev/shm") -> None:  # noqa: S108
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
