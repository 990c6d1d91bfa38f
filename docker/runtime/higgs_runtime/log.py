"""The start code's own lines in the container's log, told from the server's by their prefix."""

from __future__ import annotations

import sys

PREFIX = "higgs:"


def info(text: str) -> None:
    """Print what is going on."""
    print(PREFIX, text, flush=True)


def warning(text: str) -> None:
    """Print what a person should look at."""
    print(PREFIX, "WARNING:", text, flush=True)


def error(message: str, hint: str) -> None:
    """Print in one line why the container ends, and the way out."""
    print(PREFIX, f"ERROR: {' '.join(message.split())}: {hint}", file=sys.stderr, flush=True)
