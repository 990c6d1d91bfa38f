"""The project's own checkout: its commit, and who does something on which machine."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import msgspec

from higgs_image import process
from higgs_image.errors import ToolMissingError


@dataclass(frozen=True)
class Checkout:
    """The state of the project's work tree.

    Attributes:
        commit: of HEAD; None without git.
        changed: files that differ from it, or that git does not know; ignored ones left out.
        url: of the remote `origin`, without credentials; None if there is none.
    """

    commit: str | None
    changed: tuple[str, ...] = ()
    url: str | None = None

    @property
    def clean(self) -> bool:
        """Everything in the work tree is what the commit says."""
        return self.commit is not None and not self.changed


UNKNOWN = Checkout(None)


def look(root: Path) -> Checkout:
    """Find out what a checkout's state is. Changes nothing."""

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


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who or what does something.

    Attributes:
        name: a person's login, or the account that started a workflow.
        run: the URL of the workflow's run; empty where a person does it by hand.
        machine: hash that tells machines (and containers) apart without naming them.
        process: id and start time of the process, as the kernel counts it.
    """

    name: str
    run: str = ""
    machine: str = ""
    process: str = ""

    def words(self) -> str:
        """Return who it is, for a person."""
        return f"{self.name} ({self.run})" if self.run else self.name


def actor() -> Actor:
    """Return who runs this process."""
    env = os.environ
    name, run = env.get("GITHUB_ACTOR", ""), ""
    if env.get("GITHUB_RUN_ID"):
        server = env.get("GITHUB_SERVER_URL", "https://github.com")
        run = f"{server}/{env.get('GITHUB_REPOSITORY', '')}/actions/runs/{env['GITHUB_RUN_ID']}"
    if not name:
        try:
            name = getpass.getuser()
        except (KeyError, OSError):
            name = f"uid {os.getuid()}"
    return Actor(name, run, _machine(), f"{os.getpid()}:{_started(os.getpid())}")


def is_dead(other: Actor) -> bool:
    """Tell whether a process is known to have ended: one of this machine that is not there now.

    An earlier attempt of the same workflow run has ended as well. Of others nothing is known.
    """
    me = actor()
    if other.run and other.run == me.run and other.process != me.process:
        return other.machine != me.machine or not _runs(other.process)
    return bool(other.machine) and other.machine == me.machine and not _runs(other.process)


def _runs(process: str) -> bool:
    pid, _, started = process.partition(":")
    return pid.isdecimal() and _started(int(pid)) == started != ""


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _machine() -> str:
    """Return a hash of host name, boot and process namespace."""
    parts = [socket.gethostname()]
    for path in (Path("/proc/sys/kernel/random/boot_id"), Path("/etc/machine-id")):
        try:
            parts.append(path.read_text().strip())
        except OSError:
            parts.append("")
    try:
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 (not a path)
    except OSError:
        parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
