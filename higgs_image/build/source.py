"""Stage `source`: exactly the pinned commits of the fork and its submodule, below `build/source`.

A checkout is proven from its files: git's tree id is computed from names, modes and contents and
compared with the lock. A moved, dirty, half-fetched or tampered checkout differs and is replaced.
Fetched once, the stage works offline.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_image import process
from higgs_image.build import remote
from higgs_image.errors import KernelsChangedError, SourceError
from higgs_image.files import new_folder
from higgs_image.git_objects import git_tree_ids
from higgs_image.lockfile import ForkPin, Lock, SubmodulePin
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from git import Repo

log = logging.getLogger(__name__)

_HOOK_VARIABLES = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """The verified checkouts.

    Attributes:
        fork: work tree of the fork.
        submodule: work tree of the submodule (beside the fork's, not in it).
        fetched: names of what had to be fetched in this run.
    """

    fork: Path
    submodule: Path
    fetched: tuple[str, ...] = ()


def ensure(workspace: Workspace, lock: Lock) -> Source:
    """Fetch and verify the pinned sources; a valid checkout is left unchanged.

    Raises:
        SourceError: a commit, the submodule or a tree id is not what the lock says.
        KernelsChangedError: the fork's compiled parts differ from those of its base.
        NetworkError: the git host did not answer.
        ToolMissingError: git is not installed.
    """
    process.find("git")
    for name in _HOOK_VARIABLES:  # set in a git hook: git would use that repository
        os.environ.pop(name, None)
    fork, submodule = workspace.source / "fork", workspace.source / "submodule"
    fetched: list[str] = []
    with workspace.exclusive("source"):
        gitlinks = {lock.submodule.path: lock.submodule.commit}
        for name, path, pin, links in (
            ("fork", fork, lock.fork, gitlinks), ("submodule", submodule, lock.submodule, {}),
        ):  # fmt: skip
            reason = _flaw(path, pin.commit, pin.tree, links)
            if reason is None:
                log.info("source: %s %s is verified", name, pin.commit[:7])
                continue
            log.info("source: fetching %s %s (%s)", name, pin.commit[:7], reason)
            _fetch(path, name, pin, links, lock)
            fetched.append(name)
        _check_kernels(fork, lock)
    return Source(fork, submodule, tuple(fetched))


def _flaw(path: Path, commit: str, tree: str, gitlinks: dict[str, str]) -> str | None:
    """Say what is wrong with a checkout; None if nothing is."""
    if not (path / ".git").exists():
        return "not fetched yet"
    from git import Repo

    try:
        with Repo(path) as repo:
            head = repo.head.commit.hexsha
    except Exception as error:  # GitPython raises many kinds, which all mean the same here
        return f"its git directory is damaged: {error or type(error).__name__}"
    if head != commit:
        return f"its HEAD is {head[:7]}"
    try:
        found = git_tree_ids(path, gitlinks)[""]
    except OSError as error:
        return f"unreadable: {error}"
    return None if found == tree else "its files differ from the pinned commit"


def _fetch(
    path: Path, name: str, pin: ForkPin | SubmodulePin, gitlinks: dict[str, str], lock: Lock
) -> None:
    """Fetch one commit without history beside its goal, verify it, and rename."""
    from git import GitCommandError, Repo

    url, commit = pin.url, pin.commit
    try:
        with new_folder(path) as new, Repo.init(new) as repo:
            repo.git.update_environment(
                GIT_TERMINAL_PROMPT="0", GIT_NO_REPLACE_OBJECTS="1", GIT_LFS_SKIP_SMUDGE="1"
            )
            with repo.config_writer() as config:  # files exactly as committed
                config.set_value("core", "autocrlf", "false")
                config.set_value("core", "hooksPath", os.devnull)
                config.set_value("advice", "detachedHead", "false")
                config.set_value("http", "lowSpeedLimit", "1000")  # a stalled host is an error
                config.set_value("http", "lowSpeedTime", "60")
            exact = new / ".git" / "info" / "attributes"  # goes before any .gitattributes
            exact.parent.mkdir(exist_ok=True)
            exact.write_text("* -text -ident -filter -working-tree-encoding\n")
            repo.create_remote("origin", url)
            repo.git.fetch("origin", commit, depth=1, no_tags=True, no_recurse_submodules=True)
            repo.git.checkout("--detach", commit)
            if name == "fork":
                _check_submodule(repo, lock)
            found = git_tree_ids(new, gitlinks)[""]
            if found != pin.tree:
                raise SourceError(
                    f"{url} at {commit} has the tree {found}, versions.lock says {pin.tree}",
                    "if the commit was changed on purpose, correct the tree beside it in "
                    f"versions.lock (git rev-parse {commit[:7]}^{{tree}})",
                )
    except GitCommandError as error:
        fetching = "fetch" in error.command
        text = str(error.stderr or error)
        raise remote.explain_git(name, url, commit, text, fetching=fetching) from None


def _check_submodule(repo: Repo, lock: Lock) -> None:
    """The fork must record the submodule that the lock names, at that commit and from that URL."""
    path = lock.submodule.path
    commit = remote.submodule_commit(repo, lock.fork.commit, path)
    if commit != lock.submodule.commit:
        raise SourceError(
            f"the fork at {lock.fork.commit[:7]} records {path} at {commit}, "
            f"versions.lock says {lock.submodule.commit}",
            "set submodule.commit and submodule.tree in versions.lock to what the fork records",
        )
    recorded = remote.submodule_url(lock.fork.url, _recorded_url(repo, path))
    if recorded != lock.submodule.url:
        raise SourceError(
            f"the fork's .gitmodules takes {path} from {recorded or 'nowhere'}, "
            f"versions.lock says {lock.submodule.url}",
            "set submodule.url in versions.lock to what the fork's .gitmodules says",
        )


def _recorded_url(repo: Repo, path: str) -> str:
    """Return the URL that .gitmodules has for the submodule at `path`; empty if there is none."""
    from git import GitCommandError

    try:
        text = repo.git.config("--file", ".gitmodules", "--list")
    except GitCommandError:  # absent or malformed
        return ""
    return remote.url_in(text, path)


def _check_kernels(fork: Path, lock: Lock) -> None:
    """Prove that the fork compiles nothing that the prebuilt wheel does not hold."""
    ids = git_tree_ids(fork, {lock.submodule.path: lock.submodule.commit})
    kernels = lock.kernels
    replaced = kernels.unchanged if kernels else {}
    if lost := [name for name, tree in replaced.items() if ids.get(name) != tree]:
        raise KernelsChangedError(
            f"the fork at {lock.fork.commit[:7]} changes {', '.join(lost)} against "
            f"{lock.vllm.ref}: the variant {lock.variant} takes what calls the kernels from "
            f"{kernels.filename if kernels else ''}, and the change would be lost",
            "pin a commit of the fork that leaves it alone, or build the default image, which "
            "keeps the change",
        )
    changed = [name for name, tree in lock.vllm.trees.items() if ids.get(name) != tree]
    if changed:
        raise KernelsChangedError(
            f"the fork at {lock.fork.commit[:7]} changes {', '.join(changed)} against "
            f"{lock.vllm.ref}: the wheel {lock.wheel.filename} does not hold its kernels",
            "pin a commit of the fork that leaves them alone, or a base whose wheel has them",
        )
    log.info("source: no kernel changed against %s (%s)", lock.vllm.ref, ", ".join(lock.vllm.trees))
