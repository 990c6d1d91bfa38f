"""Start Docker's daemon, as a service or detached, and explain why it does not start."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from higgs_image import process
from higgs_image.errors import EngineError
from higgs_image.host.facts import DAEMON_JSON, engine_info, read_text
from higgs_image.process import ask
from higgs_image.retry import wait_until

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""How long a started daemon may take to answer."""
_CONTAINERD_SLOW = "timeout waiting for containerd to start"
"""dockerd gives containerd 15 s, which a cold disk can exceed; the second start finds it cached."""


def start(log_file: Path, endpoint: str, *, systemd: bool) -> None:
    """Start the daemon and wait until it answers.

    With systemd it becomes a service that is started at boot; without, a detached process.

    Args:
        log_file: receives its output; without systemd only.
        endpoint: its socket; without systemd only.
        systemd: whether this machine runs systemd.

    Raises:
        EngineError: it does not start; the message has the end of its log.
    """
    log.info("install-docker: starting the daemon")
    if systemd:
        done = process.run(["systemctl", "enable", "--now", "docker"], timeout=120)
        if done.code == 0 and wait_until(answers, START_SECONDS):
            return
        journal = ask("journalctl", "--unit", "docker", "--lines", "15", "--output", "cat")
        raise did_not_start(f"{done.err}\n{journal.out}", "journalctl --unit docker")
    if _start_detached(log_file, endpoint):
        return
    if _CONTAINERD_SLOW in (read_text(log_file) or ""):
        log.info("install-docker: containerd started too slowly: starting the daemon again")
        if _start_detached(log_file, endpoint):
            return
    raise did_not_start(read_text(log_file) or "", str(log_file))


def _start_detached(log_file: Path, endpoint: str) -> bool:
    """Start the daemon unless it runs, and tell whether it answers."""
    daemon = None
    if not running():
        nest_cgroups()
        daemon = spawn(["dockerd", "--host", endpoint], log_file)
    wait_until(lambda: answers() or (daemon is not None and daemon.poll() is not None),
               START_SECONDS)  # fmt: skip
    return answers()


def answers() -> bool:
    """Tell whether an engine answers."""
    return bool(engine_info(timeout=5)[0])


def running(pid_file: Path = Path("/var/run/docker.pid")) -> bool:
    """Tell whether a daemon is running, also one that is still starting."""
    pid = (read_text(pid_file) or "").strip()
    return pid.isdigit() and "dockerd" in (read_text(Path("/proc") / pid / "comm") or "")


def spawn(command: Sequence[str], log_file: Path) -> subprocess.Popen[bytes]:
    """Start a program that outlives this task, writing to its own log."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    with log_file.open("wb") as file:
        return subprocess.Popen(
            [process.find(command[0]), *command[1:]],
            cwd="/",
            env=os.environ | {"PATH": path},  # iptables is in sbin
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def nest_cgroups(root: Path = Path("/sys/fs/cgroup")) -> None:
    """In a container with cgroup v2, allow the engine to create its own groups.

    A group either holds processes or delegates controllers (cgroups(7), "no internal processes"),
    so the processes move one level down. The root group of a machine has no `cgroup.type` and
    needs no change.
    """
    if not (root / "cgroup.controllers").exists() or not (root / "cgroup.type").exists():
        return
    group = root / "init"
    try:
        group.mkdir(exist_ok=True)
        for pid in (root / "cgroup.procs").read_text().split():
            try:
                (group / "cgroup.procs").write_text(pid)
            except OSError as error:  # it ended meanwhile
                log.debug("install-docker: process %s was not moved: %s", pid, error)
        names = (root / "cgroup.controllers").read_text().split()
        (root / "cgroup.subtree_control").write_text(" ".join(f"+{x}" for x in names))
    except OSError as error:
        log.info("install-docker: cgroups could not be nested, containers may not start: %s", error)


_HINTS = (
    (r"unable to configure the daemon|daemon\.json", f"fix {DAEMON_JSON}"),
    (
        r"iptables|nf_tables|nat table",
        "the kernel does not support this iptables: update-alternatives --set iptables "
        "/usr/sbin/iptables-legacy (and ip6tables), then run again",
    ),
    (
        r"cgroup",
        "mount the control groups (as root: apt-get install cgroupfs-mount; cgroupfs-mount); in "
        "a container: start it with --privileged",
    ),
    (r"no space left", "free disk space below /var/lib/docker, then run again"),
    (
        r"operation not permitted|permission denied",
        "in a container: start it with --privileged and a volume at /var/lib/docker",
    ),
    (r"still running", "another dockerd is running: stop it, or remove /var/run/docker.pid"),
    (
        r"failed to mount overlay|driver not supported",
        "in a container: start it with a volume at /var/lib/docker",
    ),
)


def did_not_start(text: str, where: str) -> EngineError:
    """Return the error for a daemon that did not start: the end of its log, and a hint."""
    lines = [x for x in text.strip().splitlines() if x.strip()]
    errors = "\n".join(x for x in lines if "level=info" not in x).lower()
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, errors)), "see its log")
    tail = "\n".join(f"    {x}" for x in lines[-12:])
    return EngineError(
        f"the engine did not start within {START_SECONDS:.0f} s:\n{tail}",
        f"{hint}; the whole log: {where}",
    )
