"""Differences between two sets of packages."""

from __future__ import annotations

from collections.abc import Mapping


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return what differs, one line for each package.

    Args:
        old: name to version before.
        new: name to version after.
    """
    return [
        f"{name} {old.get(name, '(absent)')} -> {new.get(name, '(gone)')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
