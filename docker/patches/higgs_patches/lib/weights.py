"""Directories of weights. The image's entrypoint downloads them; the server only takes paths."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class WeightsError(Exception):
    """Weights that the server needs are not in their directory. The text is one line."""


def complete(what: str, directory: str, files: Iterable[str]) -> Path:
    """Return a directory if it holds these files.

    Args:
        what: the weights, for messages.
        directory: their path.
        files: names that have to be there.

    Raises:
        WeightsError: it is not a directory, or lacks a file.
    """
    path = Path(directory)
    if not path.is_dir():
        raise WeightsError(
            f"the {what} {directory!r} is not a directory: the server does not download weights, "
            "start it through the image's entrypoint or name a directory"
        )
    if missing := [name for name in files if not (path / name).is_file()]:
        raise WeightsError(f"the {what} in {path} lacks {' and '.join(missing)}")
    return path


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
