"""Stage `source`: exactly the pinned commits of the fork and its submodule, below `build/source`.

A checkout is proven from its files: git's tree id is computed from names, modes and contents and
compared with the lock. A moved, dirty, half-fetched or tampered checkout differs and is replaced.
Fetched once, the stage works offline.
"""

from __future__ import annotations

import datetime
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from higgs_image.errors import DiskFullError, NetworkError, SourceError

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


def submodule_url(fork: str, recorded: str) -> str:
    """Resolve a submodule's recorded URL as git does: a relative one against the fork's own."""
    if recorded.startswith(("./", "../")):
        return urljoin(fork.rstrip("/") + "/", recorded)
    return recorded


@dataclass(frozen=True)
class Upstream:
    """What a commit of the fork brings with it.

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
    try:
        listed = command.execute(["git", *_PATIENCE, "ls-remote", url, *names])
    except GitCommandError as error:
        raise _explain("fork", url, ref, str(error.stderr or error)) from None
    found = {
        name: commit for commit, name in (line.split("\t") for line in str(listed).splitlines())
    }
    for name in (names[0], names[2], names[1]):  # what an annotated tag points to, not the tag
        if name in found:
            return found[name]
    raise SourceError(f"{url} has no branch or tag {ref}", "correct fork.ref in versions.lock")


_PATIENCE = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")


def _explain(
    name: str, url: str, commit: str, text: str, *, fetching: bool = True
) -> SourceError | NetworkError | DiskFullError:
    text = text.strip()
    first = re.search(r"(?:fatal|error): [^\n]*", text)  # what follows it is a consequence
    said = (first[0] if first else text.replace("\n", " ")).strip(" '")
    lower = text.lower()
    if "no space left" in lower:
        return DiskFullError(f"fetching the {name}: {said}", "free disk space, then run again")
    if not fetching:
        return SourceError(
            f"{url} at {commit} cannot be checked out: {said}",
            f"pin another commit of the {name} in versions.lock",
        )
    if (
        "not our ref" in lower
        or "unadvertised object" in lower
        or "couldn't find remote ref" in lower
    ):
        return SourceError(
            f"{url} has no commit {commit} ({said})",
            "correct the commit in versions.lock; a commit that upstream has removed is lost",
        )
    if (
        "authentication failed" in lower
        or "terminal prompts disabled" in lower
        or "could not read username" in lower
        or "returned error: 403" in lower
    ):
        return SourceError(
            f"{url} does not exist, or asks for a login ({said})",
            "correct the URL in versions.lock",
        )
    if re.search(r"repository '.*' (not found|does not exist)|not appear to be a git", lower):
        return SourceError(
            f"{url} is no git repository ({said})", "correct the URL in versions.lock"
        )
    return NetworkError(
        f"fetching the {name} from {url} failed: {said}",
        "check the network (invoke doctor) and run again; a mirror can be set with "
        "git config --global url.MIRROR.insteadOf PREFIX",
    )
