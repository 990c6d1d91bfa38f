"""The entrypoint's own log lines, marked by a prefix to tell them from the server's.

Each line is a single write, because the server and several threads write to the same stream.
"""

from __future__ import annotations

import sys

PREFIX = "higgs:"


def info(text: str) -> None:
    """Log progress."""
    print(f"{PREFIX} {text}\n", end="", flush=True)


def warning(text: str) -> None:
    """Log something that needs a person's attention but does not stop the start."""
    print(f"{PREFIX} WARNING: {text}\n", end="", flush=True)


def error(message: str, hint: str) -> None:
    """Log in one line why the container exits, and what to do."""
    line = f"{PREFIX} ERROR: {' '.join(message.split())}; hint: {hint}\n"
    print(line, end="", file=sys.stderr, flush=True)
