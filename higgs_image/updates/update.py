"""`./inv lock --update`: newer pins, each from its own source, one by one.

An entry that cannot be checked does not stop the others: the report names it and the reason. A pin
with a `hold` in versions.lock is reported, but only taken when it is named: the lock says why.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence

from higgs_image import lockfile
from higgs_image.errors import HiggsError, UpdateError, UsageError
from higgs_image.files import write_atomically
from higgs_image.lockfile import Lock
from higgs_image.updates import base, fork, python, weights
from higgs_image.updates.report import Proposal, UpdateReport
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)


def update(
    workspace: Workspace,
    names: Sequence[str] = (),
    *,
    min_age: datetime.timedelta = python.MIN_AGE,
    dry_run: bool = False,
) -> UpdateReport:
    """Find newer pins and write them into versions.lock, with the hashes that follow.

    Args:
        workspace: whose versions.lock.
        names: entries; none: all that are not held.
        min_age: how old a Python package must be.
        dry_run: change nothing.

    Raises:
        UsageError: an entry is unknown.
        LockError: the lock does not match its files.
        UpdateError: not one entry could be checked.
    """
    lock = lockfile.load(workspace.lock_file)
    known = _entries(workspace, lock, min_age)
    if unknown := sorted(set(names) - set(known)):
        raise UsageError(
            f"unknown entry: {', '.join(unknown)}", f"known entries: {', '.join(known)}"
        )
    lockfile.require_consistent(lock, workspace.root)
    proposals: list[Proposal] = []
    unchecked: dict[str, str] = {}
    for name, propose in known.items():
        if names and name not in names:
            continue
        log.info("lock: checking %s", name)
        try:
            proposals.append(propose())
        except HiggsError as error:
            unchecked[name] = error.message
    if unchecked and not proposals:
        raise UpdateError(
            "nothing could be checked: " + "; ".join(f"{k}: {v}" for k, v in unchecked.items()),
            "check the network (./inv doctor), then run again",
        )
    new = [x for x in proposals if x.is_new]
    taken = [x for x in new if x.hold is None or x.name in names]
    return UpdateReport(
        tuple(taken),
        tuple(x for x in new if x not in taken),
        tuple(x.name for x in proposals if not x.is_new),
        unchecked,
        (_write(workspace, lock, taken) if taken and not dry_run else lock).tag,
        dry_run,
    )


def _entries(
    workspace: Workspace, lock: Lock, min_age: datetime.timedelta
) -> dict[str, Callable[[], Proposal]]:
    """Return everything that can be updated: its name, and what finds its newest pin."""
    packages = {
        python.name(name): lambda name=name: python.propose(
            workspace, lock.for_variant(name), min_age
        )
        for name in ("", *(variant.name for variant in lock.variants))
    }
    return {
        "fork": lambda: fork.propose(workspace, lock),
        "base": lambda: base.propose(lock),
        **packages,
    } | {
        entry.role: lambda index=index: weights.propose(lock, index)
        for index, entry in enumerate(lock.weights)
    }


def _write(workspace: Workspace, lock: Lock, taken: Sequence[Proposal]) -> Lock:
    """Write files and versions.lock; only what was proposed changes."""
    values: dict[str, lockfile.Value | None] = {}
    for proposal in taken:
        for name, data in proposal.files.items():
            write_atomically(lock.file(name), data)
        values |= {key: new for key, (_, new) in proposal.changes.items()}
    # a revision takes the place of the line that says why there is none yet
    values |= {key.replace("].revision", "].unpinned"): None for key in values if "].rev" in key}
    lockfile.refresh(lockfile.write(lock.path, values, comments=False), workspace.root)
    return lockfile.load(lock.path)
