"""Who runs a release: person or workflow, machine, process."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from pathlib import Path

import msgspec

from higgs_image.process import is_alive, started_at


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

    def describe(self) -> str:
        """Return a human-readable description."""
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
    return Actor(name, run, _machine(), f"{os.getpid()}:{started_at(os.getpid())}")


def is_dead(other: Actor) -> bool:
    """Tell whether a process is known to have ended: one of this machine that is not there now.

    An earlier attempt of the same workflow run has ended as well. Of others nothing is known.
    """
    me = actor()
    if other.run and other.run == me.run and other.process != me.process:
        return other.machine != me.machine or not _runs(other.process)
    return bool(other.machine) and other.machine == me.machine and not _runs(other.process)


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


def _runs(process: str) -> bool:
    pid, _, started = process.partition(":")
    return pid.isdecimal() and is_alive(int(pid), started)
