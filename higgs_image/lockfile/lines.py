"""The line of a key in versions.lock, for error messages: tomllib does not keep it."""

from __future__ import annotations

import re

_TABLE = re.compile(r"^\s*\[(\[?)\s*([\w.\"-]+)\s*\]")
_KEY = re.compile(r"^\s*(?:\"([^\"]+)\"|([\w.-]+))\s*=")


def line_of(text: str, key: str) -> int:
    """Return the line of a key, or else of the list, table or file that it belongs to.

    Args:
        text: the whole file.
        key: such as `fork.commit` or `weights[0].repo`.
    """
    lines = _lines(text)
    while key and key not in lines:
        key = re.sub(r"(^|\.|\[)[^.\[]*$", "", key)
    return lines.get(key, 1)


def _lines(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    prefix, counts = "", dict[str, int]()
    for number, line in enumerate(text.split("\n"), start=1):
        if table := _TABLE.match(line):
            prefix = table[2]
            if table[1]:
                index = counts[prefix] = counts.get(prefix, -1) + 1
                prefix = f"{prefix}[{index}]"
            elif (first := prefix.partition(".")[0]) in counts:  # a table of the list's last entry
                prefix = prefix.replace(first, f"{first}[{counts[first]}]", 1)
            found.setdefault(prefix, number)
            prefix += "."
        elif key := _KEY.match(line):
            found.setdefault(prefix + (key[1] or key[2]), number)
    return found
