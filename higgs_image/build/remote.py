"""Remote git repositories: the commit of a branch, and the contents of a commit of the fork."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from higgs_image.errors import (
    DiskFullError,
    HiggsError,
    KernelsChangedError,
    NetworkError,
    SourceError,
)
from higgs_image.explain import Rule, explain
from higgs_image.lockfile import Lock

if TYPE_CHECKING:
    from git import Repo


def submodule_url(fork: str, recorded: str) -> str:
    """Resolve a submodule's recorded URL as git does: a relative one against the fork's own."""
    if recorded.startswith(("./", "../")):
        return urljoin(fork.rstrip("/") + "/", recorded)
    return recorded


def url_in(text: str, path: str) -> str:
    """Return the URL of the submodule at `path` in what `git config --list` printed."""
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    names = (key.removesuffix(".path") for key, value in settings.items() if value == path)
    return next((settings[f"{x}.url"] for x in names if f"{x}.url" in settings), "")


@dataclass(frozen=True)
class ForkCommit:
    """Facts about a commit of the fork.

    Attributes:
        tree: its tree id.
        date: its date.
        submodule_url: where .gitmodules takes the submodule from.
        submodule_commit: what it records.
        submodule_tree: the tree id of that commit.
    """

    tree: str
    date: datetime.datetime
    submodule_url: str
    submodule_commit: str
    submodule_tree: str


def resolve(url: str, ref: str) -> str:
    """Return the commit that a branch or tag of a repository names now.

    Raises:
        SourceError: there is no such repository or ref.
        NetworkError: the git host did not answer.
    """
    from git import Git, GitCommandError

    command = Git()
    command.update_environment(GIT_TERMINAL_PROMPT="0")
    names = (f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}")
    stalled = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")
    try:
        listed = command.execute(["git", *stalled, "ls-remote", url, *names])
    except GitCommandError as error:
        raise explain_git("fork", url, ref, str(error.stderr or error)) from None
    found = {
        name: commit for commit, name in (line.split("\t") for line in str(listed).splitlines())
    }
    for name in (names[0], names[2], names[1]):  # what an annotated tag points to, not the tag
        if name in found:
            return found[name]
    raise SourceError(f"{url} has no branch or tag {ref}", "correct fork.ref in versions.lock")


def examine(lock: Lock, commit: str, folder: Path) -> ForkCommit:
    """Fetch a commit of the fork without history, and return facts about it.

    Args:
        lock: names the fork, its submodule and its compiled parts.
        commit: of the fork.
        folder: empty; receives the repositories.

    Raises:
        KernelsChangedError: it changes something that is compiled.
        SourceError: it has no submodule where the lock says.
        NetworkError: the git host did not answer.
    """
    from git import GitCommandError, Repo

    path = lock.submodule.path
    try:
        with Repo.init(folder / "fork") as repo:
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
            submodule = submodule_commit(repo, commit, path)
            modules = folder / ".gitmodules"
            modules.write_text(repo.git.show(f"{commit}:.gitmodules"))
            recorded = url_in(repo.git.config("--file", str(modules), "--list"), path)
            url = submodule_url(lock.fork.url, recorded)
            tree = repo.git.rev_parse(f"{commit}^{{tree}}")
            date = repo.git.show("--no-patch", "--format=%cI", commit)
        with Repo.init(folder / "submodule") as repo:
            repo.git.update_environment(GIT_TERMINAL_PROMPT="0", GIT_NO_REPLACE_OBJECTS="1")
            repo.git.fetch(url, submodule, depth=1, no_tags=True)
            submodule_tree = repo.git.rev_parse(f"{submodule}^{{tree}}")
    except GitCommandError as error:
        raise explain_git("fork", lock.fork.url, commit, str(error.stderr or error)) from None
    return ForkCommit(tree, datetime.datetime.fromisoformat(date), url, submodule, submodule_tree)


def submodule_commit(repo: Repo, commit: str, path: str) -> str:
    """Return the commit of the submodule that a commit of the fork records at `path`.

    Raises:
        SourceError: it records none there.
    """
    entry = repo.git.ls_tree(commit, "--", path).split()
    if len(entry) < 3 or entry[1] != "commit":
        raise SourceError(
            f"the fork at {commit[:7]} has no submodule at {path}",
            "correct submodule.path in versions.lock, or pin a commit of the fork that has it",
        )
    return str(entry[2])


_DISK_FULL = Rule(
    r"no space left", DiskFullError,
    "fetching the {name}: {reason}", "free disk space, then run again",
)  # fmt: skip
_CHECKOUT = (
    _DISK_FULL,
    Rule(
        "", SourceError,
        "{url} at {commit} cannot be checked out: {reason}",
        "pin another commit of the {name} in versions.lock",
    ),
)  # fmt: skip
_FETCH = (
    _DISK_FULL,
    Rule(
        r"not our ref|unadvertised object|couldn't find remote ref", SourceError,
        "{url} has no commit {commit} ({reason})",
        "correct the commit in versions.lock; a commit that upstream has removed is lost",
    ),
    Rule(
        r"authentication failed|terminal prompts disabled|could not read username"
        r"|returned error: 403", SourceError,
        "{url} does not exist, or asks for a login ({reason})", "correct the URL in versions.lock",
    ),
    Rule(
        r"repository '.*' (not found|does not exist)|not appear to be a git", SourceError,
        "{url} is not a git repository ({reason})", "correct the URL in versions.lock",
    ),
    Rule(
        "", NetworkError,
        "fetching the {name} from {url} failed: {reason}",
        "check the network (./inv doctor) and run again; a mirror can be set with "
        "git config --global url.MIRROR.insteadOf PREFIX",
    ),
)  # fmt: skip


def explain_git(
    name: str, url: str, commit: str, text: str, *, fetching: bool = True
) -> HiggsError:
    """Turn git's output into an error.

    Args:
        name: what is fetched: the fork or the submodule.
        url: of the repository.
        commit: or the branch.
        text: git's standard error.
        fetching: False: it was checking out what is here.
    """
    text = text.strip()
    first = re.search(r"(?:fatal|error): [^\n]*", text)  # what follows it is a consequence
    reason = (first[0] if first else text.replace("\n", " ")).strip(" '")
    rules = _FETCH if fetching else _CHECKOUT
    found = explain(rules, text, name=name, url=url, commit=commit, reason=reason)
    assert found is not None  # noqa: S101 (the last rule fits everything)
    return found
