"""Debian packages that a few tests need besides the engine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest


def require(package: str, there: Callable[[], bool]) -> None:
    """Make sure of a package: in CI it is installed, never skipped; else it is asked for.

    Args:
        package: as apt-get is told it.
        there: whether what it brings can be used already.
    """
    if there():
        return
    if os.environ.get("CI") != "true":
        pytest.skip(f"needs {package}: apt-get install {package}")
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
    subprocess.run(install, check=True)
