"""Paths of the project. Every stage reads the project's folder and writes below `build/` only."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from higgs_image import process, variants
from higgs_image.errors import BusyError, DiskFullError
from higgs_image.files import write_atomically

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parent.parent


def free_disk(path: Path) -> tuple[Path, float]:
    """Return the nearest existing parent of a path, and the GB (10^9 bytes) that are free there."""
    while not path.exists():
        path = path.parent
    return path, shutil.disk_usage(path).free / 1e9


@dataclass(frozen=True)
class Workspace:
    """The folders of one product: the real image, or a fake fork's.

    Attributes:
        build: every output is below it.
        lock_file: the versions.lock in force.
        layers_file: how the Python packages are spread over layers, and the size budgets.
        wheels: local wheels that are preferred to the package index (their hashes must match).
        root: the project's folder: templates and recipe.
        disk_gb: free disk that a cold build of this product needs; None: of the real image.
        variant: which of the product's images is meant; empty for the default one.
    """

    build: Path
    lock_file: Path
    layers_file: Path
    wheels: Path | None = None
    root: Path = PROJECT
    disk_gb: float | None = None
    variant: str = ""

    @classmethod
    def default(cls) -> Workspace:
        """Return the workspace of the real image."""
        return cls(PROJECT / "build", PROJECT / "versions.lock", PROJECT / "docker" / "layers.toml")

    @property
    def source(self) -> Path:
        """Checkouts of the pinned fork and its submodule."""
        return self.build / "source"

    @property
    def context(self) -> Path:
        """The rendered build context with the Dockerfile."""
        return self.build / f"context{variants.suffix(self.variant)}"

    def layout(self, compression: str) -> Path:
        """The OCI layout that a build leaves behind, one per compression and variant."""
        return self.build / f"oci-{self.product(compression)}"

    def product(self, compression: str) -> str:
        """The name, below build/, of what a build leaves behind: state, log, provenance."""
        return compression + variants.suffix(self.variant)

    @contextmanager
    def exclusive(self, name: str, timeout: float = 900) -> Iterator[None]:
        """Hold a part of the workspace; a second run waits for the first.

        The lock ends with the process, also with kill -9.

        Args:
            name: which part.
            timeout: seconds to wait.

        Raises:
            BusyError: another run still holds it after that time.
        """
        self.build.mkdir(parents=True, exist_ok=True)
        path = self.build / f".{name}.lock"
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            log.info("waiting: another run is busy with %s", name)
            try:
                lock.acquire(timeout=timeout)
            except filelock.Timeout:
                raise BusyError(
                    f"another run has been busy with {name} for {timeout:.0f} s ({path})",
                    "wait for it to end, or end it, then run again",
                ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def scratch(self, what: str) -> Iterator[Path]:
        """Yield an empty folder below build/ that is removed at the end.

        Folders of runs that were killed are removed first.

        Args:
            what: part of the folder's name.
        """
        root = self.build / "tmp"
        root.mkdir(parents=True, exist_ok=True)
        for left in root.iterdir():
            pid, _, started = left.name.rpartition("-")[2].partition(".")
            if not (pid.isdecimal() and process.is_alive(int(pid), started)):
                shutil.rmtree(left, ignore_errors=True)
        me = os.getpid()
        owner = f"{secrets.token_hex(3)}-{me}.{process.started_at(me)}"
        folder = root / f"{what}-{owner}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def read_state(self, stage: str) -> dict[str, Any]:
        """Return what a stage recorded when it last finished; empty if it never did."""
        try:
            state = json.loads((self.build / "state" / f"{stage}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def write_state(self, stage: str, state: dict[str, Any]) -> None:
        """Record atomically that a stage finished, and its inputs."""
        path = self.build / "state" / f"{stage}.json"
        write_atomically(path, json.dumps(state, indent=2).encode() + b"\n")

    def require_disk(self, path: Path, gigabytes: float, what: str) -> None:
        """Refuse to begin what cannot end.

        Raises:
            DiskFullError: less than this many GB (10^9 bytes) are free at `path`.
        """
        path, free = free_disk(path)
        if free < gigabytes:
            raise DiskFullError(
                f"{what} needs {gigabytes:.1f} GB free at {path}, {free:.1f} GB are",
                "free space there (docker builder prune; docker image prune), then run again",
            )
