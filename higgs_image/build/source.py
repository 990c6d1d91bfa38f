"""Stage `source`: exactly the pinned commits of the fork and its submodule, below `build/source`.

A checkout is proven from its files: git's tree id is computed from names, modes and contents and
compared with the lock. A moved, dirty, half-fetched or tampered checkout differs and is replaced.
Fetched once, the stage works offline.
"""

from __future__ import annotations

import datetime
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_image import process
from higgs_image.build.remote import Upstream, _explain, submodule_url
from higgs_image.errors import KernelsChangedError, SourceError
from higgs_image.files import replace_folder
from higgs_image.git_objects import git_tree_ids
from higgs_image.lockfile import Lock
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from git import Repo

log = logging.getLogger(__name__)

_REPOSITORY_OF_A_HOOK = (
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
    """Fetch and verify the pinned sources; a good checkout is left as it is.

    Raises:
        SourceError: a commit, the submodule or a tree id is not what the lock says.
        KernelsChangedError: the fork's compiled parts differ from those of its base.
        NetworkError: the git host did not answer.
        ToolMissingError: git is not installed.
    """
    process.find("git")
    for name in _REPOSITORY_OF_A_HOOK:  # run by a git hook, git would work on the caller's own
        os.environ.pop(name, None)
    fork, submodule = workspace.source / "fork", workspace.source / "submodule"
    fetched: list[str] = []
    with workspace.exclusive("source"):
        for name, path, url, commit, tree, gitlinks in (
            (
                "fork",
                fork,
                lock.fork.url,
                lock.fork.commit,
                lock.fork.tree,
                {lock.submodule.path: lock.submodule.commit},
            ),
            (
                "submodule",
                submodule,
                lock.submodule.url,
                lock.submodule.commit,
                lock.submodule.tree,
                {},
            ),
        ):
            reason = _flaw(path, commit, tree, gitlinks)
            if reason is None:
                log.info("source: %s %s is verified", name, commit[:7])
                continue
            log.info("source: fetching %s %s (%s)", name, commit[:7], reason)
            _fetch(path, name, url, commit, tree, lock)
            fetched.append(name)
        _check_kernels(fork, lock)
    return Source(fork, submodule, tuple(fetched))


def _flaw(path: Path, commit: str, tree: str, gitlinks: dict[str, str]) -> str | None:
    """Say what is wrong with a checkout; None if nothing is."""
    if not (path / ".git").exists():
        return "not there yet"
    from git import Repo

    try:
        with Repo(path) as repo:
            head = repo.head.commit.hexsha
    except Exception as error:  # GitPython has no end of them, and each means the same to us
        return f"its git directory is damaged: {error or type(error).__name__}"
    if head != commit:
        return f"its HEAD is {head[:7]}"
    try:
        found = git_tree_ids(path, gitlinks)[""]
    except OSError as error:
        return f"unreadable: {error}"
    return None if found == tree else "its files differ from the pinned commit"


def _fetch(path: Path, name: str, url: str, commit: str, tree: str, lock: Lock) -> None:
    """Fetch one commit without history beside its goal, verify it, and rename."""
    from git import GitCommandError, Repo

    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{name}.new-*"):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=f".{name}.new-", dir=path.parent))
    try:
        with Repo.init(new) as repo:
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
        gitlinks = {lock.submodule.path: lock.submodule.commit} if name == "fork" else {}
        found = git_tree_ids(new, gitlinks)[""]
        if found != tree:
            raise SourceError(
                f"{url} at {commit} has the tree {found}, versions.lock says {tree}",
                "if the commit was changed on purpose, correct the tree beside it in "
                f"versions.lock (git rev-parse {commit[:7]}^{{tree}})",
            )
        replace_folder(new, path)
    except GitCommandError as error:
        fetching = "fetch" in error.command
        text = str(error.stderr or error)
        raise _explain(name, url, commit, text, fetching=fetching) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check_submodule(repo: Repo, lock: Lock) -> None:
    """The fork must record the submodule that the lock names, at that commit and from that URL."""
    path = lock.submodule.path
    entry = repo.git.ls_tree("HEAD", "--", path).split()
    if len(entry) < 3 or entry[1] != "commit":
        raise SourceError(
            f"the fork at {lock.fork.commit[:7]} has no submodule at {path}",
            "correct submodule.path in versions.lock, or pin a commit of the fork that has it",
        )
    if entry[2] != lock.submodule.commit:
        raise SourceError(
            f"the fork at {lock.fork.commit[:7]} records {path} at {entry[2]}, "
            f"versions.lock says {lock.submodule.commit}",
            "set submodule.commit and submodule.tree in versions.lock to what the fork records",
        )
    recorded = submodule_url(lock.fork.url, _recorded_url(repo, path))
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
    return _url_in(text, path)


def _url_in(text: str, path: str) -> str:
    """Return the URL of the submodule at `path` in what `git config --list` printed."""
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    names = (key.removesuffix(".path") for key, value in settings.items() if value == path)
    return next((settings[f"{x}.url"] for x in names if f"{x}.url" in settings), "")


def examine(lock: Lock, commit: str) -> Upstream:
    """Fetch a commit of the fork without its files' history and say what it brings.

    Raises:
        KernelsChangedError: it changes something that is compiled.
        SourceError: it has no submodule where the lock says.
        NetworkError: the git host did not answer.
    """
    from git import GitCommandError, Repo

    path = lock.submodule.path
    with tempfile.TemporaryDirectory(prefix="higgs-upstream-") as folder:
        try:
            with Repo.init(Path(folder) / "fork") as repo:
                repo.git.update_environment(GIT_TERMINAL_PROMPT="0", GIT_NO_REPLACE_OBJECTS="1")
                repo.git.fetch(lock.fork.url, commit, depth=1, no_tags=True)
                changed = [
                    name
                    for name, tree in lock.vllm.trees.items()
                    if repo.git.rev_parse(f"{commit}:{name}") != tree
                ]
                if changed:
                    raise KernelsChangedError(
                        f"the fork's {commit[:7]} changes {', '.join(changed)} against "
                        f"{lock.vllm.ref}: the locked wheel does not hold its kernels",
                        "pin a base whose wheel has them first",
                    )
                entry = repo.git.ls_tree(commit, "--", path).split()
                if len(entry) < 3 or entry[1] != "commit":
                    raise SourceError(
                        f"the fork at {commit[:7]} has no submodule at {path}",
                        "correct submodule.path in versions.lock",
                    )
                text = repo.git.show(f"{commit}:.gitmodules")
                modules = Path(folder) / ".gitmodules"
                modules.write_text(text)
                recorded = _url_in(repo.git.config("--file", str(modules), "--list"), path)
                url = submodule_url(lock.fork.url, recorded)
                tree = repo.git.rev_parse(f"{commit}^{{tree}}")
                date = datetime.datetime.fromisoformat(
                    repo.git.show("--no-patch", "--format=%cI", commit)
                )
            with Repo.init(Path(folder) / "submodule") as repo:
                repo.git.update_environment(GIT_TERMINAL_PROMPT="0", GIT_NO_REPLACE_OBJECTS="1")
                repo.git.fetch(url, entry[2], depth=1, no_tags=True)
                submodule_tree = repo.git.rev_parse(f"{entry[2]}^{{tree}}")
        except GitCommandError as error:
            raise _explain("fork", lock.fork.url, commit, str(error.stderr or error)) from None
    return Upstream(tree, date, url, entry[2], submodule_tree)


def _check_kernels(fork: Path, lock: Lock) -> None:
    """Prove that the fork compiles nothing that the prebuilt wheel does not hold."""
    ids = git_tree_ids(fork, {lock.submodule.path: lock.submodule.commit})
    changed = [name for name, tree in lock.vllm.trees.items() if ids.get(name) != tree]
    if changed:
        raise KernelsChangedError(
            f"the fork at {lock.fork.commit[:7]} changes {', '.join(changed)} against "
            f"{lock.vllm.ref}: the wheel {lock.wheel.filename} does not hold its kernels",
            "pin a commit of the fork that leaves them alone, or a base whose wheel has them",
        )
    log.info("source: no kernel changed against %s (%s)", lock.vllm.ref, ", ".join(lock.vllm.trees))
