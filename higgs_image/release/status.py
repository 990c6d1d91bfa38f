"""What the floating tags name, and whether the journal agrees."""

from __future__ import annotations

from higgs_image.release import journal, record_tags
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import floating_tags
from higgs_image.release.records import Promote, Rollback

_NEWEST = 20
"""Moves that are read at first: each is a request."""


def tag_status(history: Journal) -> list[str]:
    """Return one line for each floating tag that exists or should."""
    lines = []
    moves, _ = history.read_all(record_tags.is_move, newest=_NEWEST)
    moved = {x.record.moving for x in moves if isinstance(x.record, Promote | Rollback)}
    for floating in floating_tags(moved.union(history.tags())):
        digest = history.repository.digest(floating)
        if digest and not journal.promoted(moves, floating):
            moves, _ = history.read_all(record_tags.is_move)
        done = journal.promoted(moves, floating)
        recorded = done[-1].record.digest if done else None
        begun = [
            x for x in moves
            if isinstance(x.record, Promote | Rollback)
            and (x.record.moving, x.record.digest, x.outcome) == (floating, digest, None)
        ]  # fmt: skip
        if begun:
            lines.append(
                f"{floating} names {digest}, moved by {begun[-1].record.by.describe()}, whose "
                "record is not finished: if that run has died, the next promotion finishes it"
            )
        elif digest != recorded:
            lines.append(
                f"{floating} names {digest or 'nothing'} but the journal says "
                f"{recorded or 'nothing'}: it was moved outside this tool"
            )
        elif digest:
            lines.append(f"{floating} names {digest}")
    return lines
