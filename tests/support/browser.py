"""Chromium for tests: where it is, and how it starts without asking for anything."""

from __future__ import annotations

import shutil

from tests.support import debian

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--mute-audio",
]  # fmt: skip

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
"""Programs, the best first: without windows a page takes half of the processor time. The first is
also Debian's package."""


def chromium() -> str:
    """Return the path of Chromium; install it on Debian, or skip the test."""
    debian.require(NAMES[0], lambda: _found() is not None)
    return str(_found())


def _found() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)
