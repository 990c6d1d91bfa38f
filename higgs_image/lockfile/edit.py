"""versions.lock: every pin of the image, what was asked for beside what was locked.

The file is TOML, read strictly: an unknown or repeated key, a short hash or a digest without its
algorithm is refused with the line and the remedy. It also records hashes of the files that decide
what is in the image (the requirements and the recipe), so that its own hash names the content.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from higgs_image.errors import LockError

_PATCH = "patches.sha256."
_NONE = "none"


class Difference(msgspec.Struct, frozen=True):
    """One place where the lock and the files it covers differ."""

    key: str
    locked: str
    actual: str


# Where a key stands. tomllib tells no lines, and the file is ours: tables, keys, single lines.
_TABLE = re.compile(r"^\s*\[(\[?)\s*([\w.\"-]+)\s*\]")
_KEY = re.compile(r"^\s*(?:\"([^\"]+)\"|([\w.-]+))\s*=")
_VALUE = re.compile(r"(=\s*)(\"[^\"]*\"|'[^']*'|[^\s#]+)")


def _lines(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    prefix, counts = "", dict[str, int]()
    for number, line in enumerate(text.split("\n"), start=1):
        if table := _TABLE.match(line):
            prefix = table[2]
            if table[1]:
                index = counts[prefix] = counts.get(prefix, -1) + 1
                prefix = f"{prefix}[{index}]"
            found.setdefault(prefix, number)
            prefix += "."
        elif key := _KEY.match(line):
            found.setdefault(prefix + (key[1] or key[2]), number)
    return found


def _line_of(text: str, key: str) -> int:
    """Return the line of a key, or else of what it is in (a list, a table, the file)."""
    lines = _lines(text)
    while key and key not in lines:
        key = re.sub(r"(^|\.|\[)[^.\[]*$", "", key)
    return lines.get(key, 1)


def _replace(path: Path, text: str, key: str, value: str) -> str:
    lines = text.split("\n")
    number = _lines(text).get(key)
    if number is None:
        raise LockError(
            f"{path}:{_line_of(text, key)}: {key} is not on a line of its own",
            "write tables as [table] and each key on its own line",
        )
    lines[number - 1] = _VALUE.sub(lambda old: old[1] + value, lines[number - 1], count=1)
    return "\n".join(lines)


def set_value(path: Path, text: str, key: str, value: str) -> str:
    """Return the text of versions.lock with another value; the line loses its comment.

    A revision takes the place of the line that says why there is none yet.
    """
    name = key.rpartition(".")[2]
    lines = text.split("\n")
    known = _lines(text)
    number = known.get(key) or known.get(re.sub(r"revision$", "unpinned", key))
    if number is None:
        return _replace(path, text, key, value)  # which says what is wrong
    lines[number - 1] = f"{name} = {value}" if name == "date" else f'{name} = "{value}"'
    return "\n".join(lines)


def _record_patch(path: Path, text: str, difference: Difference) -> str:
    """Change, add or remove the line of one patch; added ones go to the end of the table."""
    if _NONE not in (difference.locked, difference.actual):
        return _replace(path, text, difference.key, f'"{difference.actual}"')
    found, lines = _lines(text), text.split("\n")
    if difference.actual == _NONE:
        del lines[found[difference.key] - 1]
    else:
        below = [number for key, number in found.items() if key.startswith(_PATCH)]
        table = found.get(_PATCH.rstrip("."))
        if table is None:
            raise LockError(
                f"{path}:{_line_of(text, _PATCH)}: there is no table [patches.sha256]",
                "write it, empty, below [patches]",
            )
        name = difference.key.removeprefix(_PATCH)
        lines.insert(max([table, *below]), f'{name} = "{difference.actual}"')
    return "\n".join(lines)
