"""Chromium for tests: where it is, and how it starts without asking for anything."""

from __future__ import annotations

import shutil

from tests.support import debian

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--mute-audio",
]  # fmt: skip


def chromium() -> str:
    """Return the path of Chromium; install it on Debian, or skip the test."""
    debian.require("chromium", lambda: _found() is not None)
    return str(_found())


def _found() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")
