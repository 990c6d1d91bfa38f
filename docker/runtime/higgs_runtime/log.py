"""The start code's own lines in the container's log, told from the server's by their prefix.

Each is one write: the server and threads write to the same place.
"""

from __future__ import annotations

import sys

PREFIX = "higgs:"


def info(text: str) -> None:
    """Print what is going on."""
    print(f"{PREFIX} {text}\n", end="", flush=True)


def warning(text: str) -> None:
    """Print what a person should look at."""
    print(f"{PREFIX} WARNING: {text}\n", end="", flush=True)


def error(message: str, hint: str) -> None:
    """Print in one line why the container ends, and the way out."""
    line = f"{PREFIX} ERROR: {' '.join(message.split())}: {hint}\n"
    print(line, end="", file=sys.stderr, flush=True)
