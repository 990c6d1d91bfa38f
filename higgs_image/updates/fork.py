"""The newest commit of the fork's branch, with everything that follows from it."""

from __future__ import annotations

from higgs_image.build import remote
from higgs_image.lockfile import Lock
from higgs_image.updates.report import Proposal, changed
from higgs_image.workspace import Workspace


def propose(workspace: Workspace, lock: Lock) -> Proposal:
    """Return the commit that the locked branch names now, and its submodule.

    Raises:
        KernelsChangedError: it changes something that is compiled.
        SourceError: the branch or the submodule does not exist.
        NetworkError: the git host did not answer.
    """
    commit = remote.resolve(lock.fork.url, lock.fork.ref)
    if commit == lock.fork.commit:
        return Proposal("fork")
    with workspace.scratch("fork") as folder:
        found = remote.examine(lock, commit, folder)
    changes = changed({
        "fork.commit": (lock.fork.commit, commit),
        "fork.tree": (lock.fork.tree, found.tree),
        "fork.date": (lock.fork.date, found.date),
        "submodule.url": (lock.submodule.url, found.submodule_url),
        "submodule.commit": (lock.submodule.commit, found.submodule_commit),
        "submodule.tree": (lock.submodule.tree, found.submodule_tree),
    })  # fmt: skip
    next_step = "run ./inv patches: a patch whose target has changed is refused"
    return Proposal("fork", changes, details=(next_step,), hold=lock.fork.hold)
