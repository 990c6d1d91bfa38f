"""The right to move a tag: of several who want to at the same time, one gets it.

A registry has no compare-and-swap: who writes a tag last wins, unseen. But it shows everybody the
list of tags, and that is enough. Who wants to move a tag first writes a record that announces it
(a tag of its own, so nobody overwrites anything), then looks at the list:

- nobody else's announcement is open: the right is ours, until we write how it ended;
- another open one has a smaller name: we withdraw ("lost") and say who was there;
- all other open ones have greater names: those withdraw as soon as they look, or had the right
  before we came; we wait for their outcome.

Two can never go on: each would have had to look before the other wrote, and both wrote before they
looked. What this relies on: the list shows a tag as soon as it was written. And because a process
may die before it wrote the outcome, an announcement lapses after LEASE; a process that is stopped
for longer than that between its last look and the move could move the tag unseen, and so could one
whose clock is behind by more than that. Before the move the tag is read once more, and the move is
refused when the announcement is older than half a LEASE. The workflows of one repository are queued
in addition.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from collections.abc import Callable
from typing import Protocol

from higgs_image.errors import HiggsError, PromotionConflictError
from higgs_image.release.actor import Actor, is_dead
from higgs_image.release.journal import outcomes, tag_for
from higgs_image.release.records import ABANDONED, DONE, LOST, Move, Outcome, now

log = logging.getLogger(__name__)

LEASE = datetime.timedelta(minutes=20)
"""After that an announcement without an outcome is taken for abandoned."""

POLL = 1.0
"""Seconds between two looks while waiting for another one's outcome."""


class Board(Protocol):
    """What the protocol needs of a registry."""

    def tags(self) -> list[str]:
        """Return all tags."""

    def record(self, tag: str) -> Move:
        """Return an announcement."""

    def write(self, record: Move | Outcome, tag: str) -> None:
        """Write a record under a tag of its own."""

    def digest(self, tag: str) -> str | None:
        """Return what a moving tag names."""

    def point(self, tag: str, digest: str) -> None:
        """Move a tag, and read it back."""


def move(
    board: Board,
    wanted: Move,
    by: Actor,
    *,
    dead: Callable[[Actor], bool] = is_dead,
    wait: Callable[[float], None] = time.sleep,
) -> str:
    """Announce a move, get the right to it, do it, and write down how it ended.

    Run again after a crash it finds what is unfinished and finishes or drops it.

    Args:
        board: the registry.
        wanted: what shall be moved from what to what.
        by: who does it.
        dead: tells of the process that announced something whether it has ended for certain.
        wait: sleeps.

    Returns:
        The tag of the announcement.

    Raises:
        PromotionConflictError: another one came first, or the tag names something else by now.
    """
    settle(board, by, dead)
    if others := _open(board):
        raise _taken(board, others[0])
    mine = tag_for(wanted, board.tags())
    board.write(wanted, mine)

    def end(outcome: str, why: str = "") -> None:
        board.write(Outcome(wanted.digest, now(), by, mine, outcome, why), f"{mine}.{outcome}")

    while others := [tag for tag in _open(board) if tag != mine]:
        if others[0] < mine:
            taken = _taken(board, others[0])
            end(LOST, taken.message)
            raise taken
        log.info("promote: waiting for %s", others[0])
        for tag in others:
            _settle(board, tag, by, dead)
        wait(POLL)
    if outcomes(board.tags()).get(mine) is not None:  # we were taken for dead
        raise PromotionConflictError(
            f"another run has declared {mine} abandoned", "look at invoke history, then run again"
        )
    found = board.digest(wanted.moving)
    if found != wanted.previous:
        why = (
            f"{wanted.moving} names {found or 'nothing'} by now, not {wanted.previous or 'nothing'}"
        )
        end(LOST, why)
        raise PromotionConflictError(why, "look at invoke history, then decide again")
    if now() - wanted.at > LEASE / 2:
        end(LOST, "it took too long")
        raise PromotionConflictError(
            f"it took more than {LEASE / 2} to get the right to move {wanted.moving}",
            "run again",
        )
    try:
        board.point(wanted.moving, wanted.digest)
    except HiggsError:
        # Whether it took place is the registry's to say; if it cannot, the next run settles it.
        with contextlib.suppress(HiggsError):
            moved = board.digest(wanted.moving) == wanted.digest
            end(DONE if moved else ABANDONED, "the registry failed during the move")
        raise
    end(DONE)
    return mine


def settle(board: Board, by: Actor, dead: Callable[[Actor], bool] = is_dead) -> None:
    """Finish or drop every announcement whose process has ended."""
    for tag in _open(board):
        _settle(board, tag, by, dead)


def _open(board: Board) -> list[str]:
    return [tag for tag, outcome in outcomes(board.tags()).items() if outcome is None]


def _settle(board: Board, tag: str, by: Actor, dead: Callable[[Actor], bool]) -> None:
    """Finish or drop an announcement whose process has ended; leave any other alone."""
    record = board.record(tag)
    ours = record.by == by  # of an earlier attempt of this very process
    if not ours and not dead(record.by) and now() - record.at < LEASE:
        return
    if board.digest(record.moving) == record.digest:
        outcome, why = DONE, "the move had taken place, only this record was missing"
    else:
        outcome, why = ABANDONED, "its process ended before the move"
    log.info("promote: %s of %s: %s", tag, record.by.words(), why)
    board.write(Outcome(record.digest, now(), by, tag, outcome, why), f"{tag}.{outcome}")


def _taken(board: Board, tag: str) -> PromotionConflictError:
    record = board.record(tag)
    until = record.at + LEASE
    return PromotionConflictError(
        f"{record.by.words()} is moving {record.moving} to {record.digest} since "
        f"{record.at:%H:%M:%S} UTC",
        "wait for it to end, look at invoke history, then decide again; should it have died, it "
        f"is taken over after {until:%H:%M:%S} UTC",
    )
