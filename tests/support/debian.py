"""Debian packages that a few tests need besides the engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest


def in_ci() -> bool:
    """Whether this is a CI job: there nothing may be skipped for a missing tool."""
    return os.environ.get("CI") == "true"


def may_install() -> bool:
    """Whether packages can be installed here: on Debian or Ubuntu, as root."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def require_program(name: str, packages: str = "") -> None:
    """Install a program's packages, by default of its own name, as `require` does."""
    require(packages or name, lambda: shutil.which(name) is not None)


def require(packages: str, usable: Callable[[], bool]) -> None:
    """Install packages; skip the test where that is not possible. In CI a failure is an error.

    Args:
        packages: as apt-get takes them: names, or name/release, with spaces between.
        usable: whether what they bring can be used already.
    """
    with filelock.FileLock(Path(tempfile.gettempdir()) / "higgs-image-tests-apt.lock"):
        if usable():
            return
        reason = f"needs {packages}: apt-get install {packages}"
        if may_install():
            print(f"installing {packages}")
            install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
            for command in (["apt-get", "update", "-qq"], [*install, *packages.split()]):
                done = subprocess.run(
                    command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                    capture_output=True, text=True,
                )  # fmt: skip
            if done.returncode == 0 and usable():
                return
            reason = f"{packages} could not be installed: {done.stderr.strip()[-200:]}"
        if in_ci():
            pytest.fail(reason)
        pytest.skip(reason)
