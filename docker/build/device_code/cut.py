"""Cut all libraries below a folder, and say what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from device_code import library


class Report(TypedDict):
    """What was done below a folder; names are relative to it.

    Attributes:
        gpus: compute capabilities, such as 8.9.
        cut: bytes of each library that was cut, before and after.
        left_whole: why a library with device code was left as it was.
    """

    gpus: list[str]
    cut: dict[str, tuple[int, int]]
    left_whole: dict[str, str]


def cut_all(folder: Path, gpus: Sequence[str]) -> Report:
    """Cut every shared library below a folder; one that was cut before stays as it is.

    Args:
        folder: site-packages.
        gpus: compute capabilities, such as 8.9.

    Raises:
        ProofError: see `library.cut`.
    """
    numbers = [int(gpu.replace(".", "")) for gpu in gpus]
    report = Report(gpus=list(gpus), cut={}, left_whole={})
    for path in sorted(folder.rglob("*.so*")):
        if path.is_symlink() or not path.is_file():
            continue
        done = library.cut(path, numbers)
        name = path.relative_to(folder).as_posix()
        if done and done.left_whole:
            report["left_whole"][name] = done.left_whole
        elif done and done.after != done.before:
            report["cut"][name] = (done.before, done.after)
    return report
