"""Rollback: a floating tag goes back to an image that it named before."""

from __future__ import annotations

from higgs_image.errors import ReleaseRefusedError, UsageError
from higgs_image.release import move_plan, records
from higgs_image.release.actor import actor
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import MovePlan
from higgs_image.release.records import Promote, Rollback


def plan_rollback(history: Journal, reason: str, floating: str, to: str | None = None) -> MovePlan:
    """Plan a rollback. Reads only.

    Args:
        history: the journal of the repository.
        reason: why; written to the journal.
        floating: the tag that goes back.
        to: the digest to go back to; by default the one before the present one.

    Raises:
        UsageError: no reason is given.
        ReleaseRefusedError: the tag never named that digest, or there is none before.
        RegistryNotFoundError: the image is gone.
    """
    repository = history.repository
    if not reason.strip():
        raise UsageError(
            "a rollback needs a reason, which is written to the journal",
            "--reason 'what is wrong with it'",
        )
    state = move_plan.tag_state(history, floating)
    present, earlier = state.present, state.stack
    if present is None or not state.moves:
        raise ReleaseRefusedError(
            f"{repository.reference(floating)} was never promoted: no earlier image is known",
            "see ./inv history",
        )
    notes = []
    if state.agrees:
        earlier = earlier[:-1]
    else:
        notes.append(f"{floating} names {present}, which no record of the journal put there")
    if to is None and not earlier:
        raise ReleaseRefusedError(
            f"no image was promoted before {present}", "promote another one: ./inv promote DIGEST"
        )
    digest, _ = move_plan.find_image(repository, to or earlier[-1])
    past = [entry for entry in state.moves if entry.record.digest == digest]
    if not past:
        raise ReleaseRefusedError(
            f"{floating} never named {digest}",
            "go back to one that it did name (./inv history), or promote it: ./inv promote",
        )
    before = past[-1].record
    assert isinstance(before, Promote | Rollback)  # noqa: S101 (by journal.promoted)
    notes += [f"it was in force since {before.at:%Y-%m-%d %H:%M} UTC, by {before.by.describe()}"]
    notes += [f"it had been forced although {reason}" for reason in before.forced]
    record = Rollback(
        digest=digest,
        at=records.now(),
        by=actor(),
        moving=floating,
        previous=present,
        immutable=before.immutable,
        lock_sha256=before.lock_sha256,
        reason=reason,
        rehearsal=before.rehearsal,
        evidence=[past[-1].tag],
    )
    return MovePlan(
        repository.name,
        record,
        nothing_to_do=present == digest,
        notes=tuple(notes),
        undo=move_plan.undo(repository, floating, present),
    )
