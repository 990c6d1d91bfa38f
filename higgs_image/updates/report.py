"""What an update found: proposals for single entries, and the report of them all."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

Pin = str | datetime.datetime


@dataclass(frozen=True)
class Proposal:
    """What one entry of versions.lock could become.

    Attributes:
        name: of the entry.
        changes: key in versions.lock to value before and after.
        files: content of the files beside versions.lock that change, by their name in it.
        details: what changes in them, one line each.
        hold: why it is only taken when it is named.
    """

    name: str
    changes: dict[str, tuple[Pin | None, Pin]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    hold: str | None = None

    @property
    def is_new(self) -> bool:
        """Something would change."""
        return bool(self.changes or self.files)

    def lines(self) -> list[str]:
        """Return what would change, one line each."""
        changes = [f"  {key}: {old or 'not pinned'} -> {new}"
                   for key, (old, new) in self.changes.items()]  # fmt: skip
        return changes + [f"  {line}" for line in self.details]


def changed(pairs: Mapping[str, tuple[Pin | None, Pin]]) -> dict[str, tuple[Pin | None, Pin]]:
    """Return the keys whose values before and after differ."""
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


@dataclass(frozen=True)
class UpdateReport:
    """What an update found and did.

    Attributes:
        taken: entries that were changed (in a dry run: that would be).
        held: newer ones that were not taken.
        current: names of the entries that are the newest.
        unchecked: entry to the reason why it could not be checked.
        tag: the tag of the lock afterwards.
    """

    taken: tuple[Proposal, ...]
    held: tuple[Proposal, ...]
    current: tuple[str, ...]
    unchecked: dict[str, str]
    tag: str
    dry_run: bool = False

    @property
    def title(self) -> str:
        """Title of a pull request with these changes."""
        return f"Take newer pins: {', '.join(x.name for x in self.taken) or 'none'}"

    def text(self) -> str:
        """Return the report as text."""
        lines = []
        for proposal in self.taken:
            lines.append(f"{'would take' if self.dry_run else 'took'} {proposal.name}:")
            lines += proposal.lines()
        for proposal in self.held:
            lines.append(f"held {proposal.name}: {proposal.hold}")
            lines += proposal.lines()
        lines += [f"current: {', '.join(self.current)}"] if self.current else []
        lines += [f"NOT CHECKED {name}: {why}" for name, why in self.unchecked.items()]
        return "\n".join([*lines, f"tag {self.tag}"])
