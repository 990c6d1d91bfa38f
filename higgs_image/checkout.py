"""The git checkout of this project: commit, changed files, and remote."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from higgs_image import process
from higgs_image.errors import ToolMissingError


@dataclass(frozen=True)
class Checkout:
    """The state of the project's work tree.

    Attributes:
        commit: of HEAD; None without git.
        changed: files that differ from it, or are untracked; ignored files are left out.
        url: URL of the remote `origin`, without credentials; None without one.
    """

    commit: str | None
    changed: tuple[str, ...] = ()
    url: str | None = None

    @property
    def clean(self) -> bool:
        """Whether the work tree equals the commit."""
        return self.commit is not None and not self.changed


UNKNOWN = Checkout(None)


def inspect(root: Path) -> Checkout:
    """Return the state of a checkout. Changes nothing."""

    def git(*arguments: str) -> str | None:
        done = process.run(["git", "-C", str(root), *arguments], timeout=60)
        return done.out if done.code == 0 else None

    try:
        commit = git("rev-parse", "--verify", "HEAD")
    except ToolMissingError:
        commit = None
    status = git("status", "--porcelain", "--untracked-files=all") if commit else None
    if commit is None or status is None:
        return Checkout(None)
    url = re.sub(r"//[^/@]*@", "//", (git("remote", "get-url", "origin") or "").strip())
    return Checkout(commit.strip(), tuple(line[3:] for line in status.splitlines()), url or None)


def is_published(root: Path) -> bool:
    """Tell whether HEAD is on a branch or tag of `origin`, as far as this clone knows."""
    done = process.run(
        ["git", "-C", str(root), "for-each-ref", "--contains", "HEAD", "refs/remotes", "refs/tags"],
        timeout=60,
    )
    return done.code == 0 and bool(done.out.strip())
