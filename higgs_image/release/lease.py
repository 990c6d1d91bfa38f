"""The right to move a tag: of several who want to at the same time, one gets it.

A registry has no compare-and-swap: the last writer of a tag wins, unseen. But every client sees
the list of tags, and that is enough. A run that wants to move a tag first writes a record that
announces it (under a separate tag, so nothing is overwritten), then reads the list:

- nobody else's announcement is open: the right is ours, until we write how it ended;
- another open one has a smaller name: we withdraw ("lost") and say who was first;
- all other open ones have greater names: those withdraw as soon as they read the list, or had the
  right before we came; we wait for their outcome.

Two can never go on: each would have had to read before the other wrote, and both wrote before they
read. Where a registry may show a write only some seconds later, a run waits that long between its
announcement and the read. Because a process may die before it wrote the outcome, an announcement
lapses after LEASE; a process that is stopped for longer than that between its last read and the
move could move the tag unseen, and so could one whose clock is behind by more than that. Before
the move the tag is read once more, and the move is refused when the announcement is older than half
a LEASE.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from higgs_image.errors import HiggsError, PromotionConflictError, RegistryUnavailableError
from higgs_image.oci import read_back
from higgs_image.oci.artifacts import Repository
from higgs_image.release.actor import Actor, is_dead
from higgs_image.release.journal import Journal
from higgs_image.release.record_tags import outcomes, tag_for
from higgs_image.release.records import (
    ABANDONED,
    DONE,
    LOST,
    Move,
    Outcome,
    OutcomeName,
    Promote,
    Rollback,
    now,
)

log = logging.getLogger(__name__)

LEASE = datetime.timedelta(minutes=20)
"""After that an announcement without an outcome is considered abandoned."""

POLL = 1.0
"""Seconds between two reads while waiting for another run's outcome."""

PROPAGATION = 15.0
"""Seconds after which every client of a remote registry sees a write."""


class TagStore(Protocol):
    """What the protocol needs of a registry."""

    def tags(self) -> list[str]:
        """Return all tags."""

    def record(self, tag: str) -> Move:
        """Return an announcement."""

    def write(self, record: Move | Outcome, tag: str) -> None:
        """Write a record under a separate tag; return when the registry shows it."""

    def digest(self, tag: str) -> str | None:
        """Return what a floating tag names."""

    def point(self, tag: str, digest: str) -> None:
        """Move a tag; return when it reads back as moved."""

    def propagate(self) -> None:
        """Wait until everything that others wrote before now is shown."""


class RegistryTagStore:
    """The tags and records of a repository in a registry.

    Args:
        history: its journal.
        files: kept with the announcement: name to content and media type.
    """

    def __init__(
        self, history: Journal, files: Mapping[str, tuple[bytes, str]] | None = None
    ) -> None:
        self._history, self._files = history, files or {}
        self._repository: Repository = history.repository

    def tags(self) -> list[str]:
        """Return all tags."""
        return self._history.tags()

    def record(self, tag: str) -> Move:
        """Return an announcement."""
        record = self._history.record(tag)
        if not isinstance(record, Promote | Rollback):
            raise HiggsError(f"{tag} is not a move", "see ./inv history")
        return record

    def write(self, record: Move | Outcome, tag: str) -> None:
        """Write a record under a separate tag; return when the registry shows it."""
        files = self._files if isinstance(record, Promote | Rollback) else {}
        self._history.write(record, files, tag)
        if tag not in self._history.tags():
            log.info("journal: the registry does not list %s yet", tag)

    def digest(self, tag: str) -> str | None:
        """Return what a floating tag names."""
        return self._repository.digest(tag)

    def point(self, tag: str, digest: str) -> None:
        """Move a tag; return when it reads back as moved."""
        self._repository.point(tag, digest)

    def propagate(self) -> None:
        """Wait where the registry is not on this machine, or was seen to lag behind."""
        if not self._repository.is_local or read_back.seen_lag() > 0:
            wait = PROPAGATION
            log.info("registry: waiting %.0f s for what other runs wrote to be shown", wait)
            time.sleep(wait)


def move(
    store: TagStore,
    wanted: Move,
    by: Actor,
    *,
    dead: Callable[[Actor], bool] = is_dead,
    wait: Callable[[float], None] = time.sleep,
) -> str:
    """Announce a move, get the right to it, do it, and write down how it ended.

    Run again after a crash it finds what is unfinished and finishes or drops it.

    Args:
        store: the registry.
        wanted: which tag goes from what to what.
        by: who does it.
        dead: tells whether the process that announced something is known to have ended.
        wait: sleeps.

    Returns:
        The tag of the announcement.

    Raises:
        PromotionConflictError: another run was first, or the tag names something else now.
    """
    settle(store, by, dead)
    if others := _open(store):
        raise _taken(store, others[0])
    mine = tag_for(wanted, store.tags())
    store.write(wanted, mine)
    store.propagate()

    def end(outcome: OutcomeName, why: str = "") -> None:
        store.write(Outcome(wanted.digest, now(), by, mine, outcome, why), f"{mine}.{outcome}")

    while others := [tag for tag in _open(store) if tag != mine]:
        if others[0] < mine:
            taken = _taken(store, others[0])
            end(LOST, taken.message)
            raise taken
        log.info("promote: waiting for %s", others[0])
        for tag in others:
            _settle(store, tag, by, dead)
        wait(POLL)
    state = outcomes(store.tags())
    if mine not in state:
        raise RegistryUnavailableError(
            f"the registry does not list {mine}, which was written", "run again when it does"
        )
    if state[mine] is not None:  # another run considered us dead
        raise PromotionConflictError(
            f"another run has declared {mine} abandoned", "look at ./inv history, then run again"
        )
    found = store.digest(wanted.moving)
    if found != wanted.previous:
        why = f"{wanted.moving} now names {found or 'nothing'}, not {wanted.previous or 'nothing'}"
        end(LOST, why)
        raise PromotionConflictError(why, "look at ./inv history, then decide again")
    if now() - wanted.at > LEASE / 2:
        end(LOST, "it took too long")
        raise PromotionConflictError(
            f"it took more than {LEASE / 2} to get the right to move {wanted.moving}",
            "run again",
        )
    try:
        store.point(wanted.moving, wanted.digest)
    except HiggsError:
        # Whether it took place is the registry's to say; if it cannot, the next run settles it.
        with contextlib.suppress(HiggsError):
            moved = read_back.until(
                lambda: store.digest(wanted.moving), wanted.digest, wanted.moving
            )
            end(
                DONE if moved == wanted.digest else ABANDONED,
                "the registry failed during the move",
            )
        raise
    end(DONE)
    return mine


def settle(store: TagStore, by: Actor, dead: Callable[[Actor], bool] = is_dead) -> None:
    """Finish or drop every announcement whose process has ended."""
    for tag in _open(store):
        _settle(store, tag, by, dead)


def _open(store: TagStore) -> list[str]:
    return [tag for tag, outcome in outcomes(store.tags()).items() if outcome is None]


def _settle(store: TagStore, tag: str, by: Actor, dead: Callable[[Actor], bool]) -> None:
    """Finish or drop an announcement whose process has ended; leave any other alone."""
    record = store.record(tag)
    ours = record.by == by  # of an earlier attempt of this very process
    age = now() - record.at
    if not ours and not dead(record.by) and age < LEASE:
        return
    found = read_back.until(
        lambda: store.digest(record.moving), record.digest, record.moving, age.total_seconds()
    )
    outcome: OutcomeName
    if found == record.digest:
        outcome, why = DONE, "the move had taken place, only this record was missing"
    else:
        outcome, why = ABANDONED, "its process ended before the move"
    log.info("promote: %s of %s: %s", tag, record.by.describe(), why)
    store.write(Outcome(record.digest, now(), by, tag, outcome, why), f"{tag}.{outcome}")


def _taken(store: TagStore, tag: str) -> PromotionConflictError:
    record = store.record(tag)
    until = record.at + LEASE
    return PromotionConflictError(
        f"{record.by.describe()} has been moving {record.moving} to {record.digest} since "
        f"{record.at:%H:%M:%S} UTC",
        "wait for it to end, look at ./inv history, then decide again; if it has died, it "
        f"is taken over after {until:%H:%M:%S} UTC",
    )
