"""Starts the engine's daemon, as a service or detached, and explains why it does not come up."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from higgs_image import process
from higgs_image.errors import EngineError
from higgs_image.host.facts import DAEMON_JSON, engine_info, read_text
from higgs_image.process import ask

log = logging.getLogger(__name__)

START_SECONDS = 20.0
"""How long a started daemon may take to answer."""


def start(log_file: Path, endpoint: str, *, systemd: bool) -> None:
    """Start the daemon and wait until it answers.

    With systemd as a service that is there after a reboot; without, detached from this task.

    Args:
        log_file: receives what it writes, without systemd.
        endpoint: where it shall listen, without systemd.
        systemd: this machine has it.

    Raises:
        EngineError: it does not come up; the message has the end of its log.
    """
    log.info("engine: starting the daemon")
    if systemd:
        done = process.run(["systemctl", "enable", "--now", "docker"], timeout=120)
        if done.code == 0 and wait_until(answers, START_SECONDS):
            return
        journal = ask("journalctl", "--unit", "docker", "--lines", "15", "--output", "cat")
        raise did_not_start(f"{done.err}\n{journal.out}", "journalctl --unit docker")
    daemon = None
    if not running():
        nest_cgroups()
        daemon = spawn(["dockerd", "--host", endpoint], log_file)
    alive: Callable[[], bool] = lambda: daemon is None or daemon.poll() is None  # noqa: E731
    if not wait_until(answers, START_SECONDS, alive):
        raise did_not_start(read_text(log_file) or "", str(log_file))


def answers() -> bool:
    """Tell whether an engine answers."""
    return bool(engine_info(timeout=5)[0])


def running(pid_file: Path = Path("/var/run/docker.pid")) -> bool:
    """Tell whether a daemon is there already, if only on its way up."""
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
            env=os.environ | {"PATH": path},  # it looks for iptables there
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_until(
    condition: Callable[[], bool], seconds: float, alive: Callable[[], bool] = lambda: True
) -> bool:
    """Ask again and again until `condition` holds; give up when the time is over or all is lost."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        if not alive():
            return False
        time.sleep(0.2)
    return False


def nest_cgroups(root: Path = Path("/sys/fs/cgroup")) -> None:
    """In a container with cgroup v2, make room for the engine's own groups.

    A group may hold processes or pass on controllers, not both (cgroups(7), "no internal
    processes"): so the processes move one level down. The machine's own root group, which has no
    `cgroup.type`, is free of that rule and left alone.
    """
    if not (root / "cgroup.controllers").exists() or not (root / "cgroup.type").exists():
        return
    group = root / "init"
    try:
        group.mkdir(exist_ok=True)
        for pid in (root / "cgroup.procs").read_text().split():
            try:
                (group / "cgroup.procs").write_text(pid)
            except OSError as error:  # it has ended in between
                log.debug("engine: process %s stays where it is: %s", pid, error)
        names = (root / "cgroup.controllers").read_text().split()
        (root / "cgroup.subtree_control").write_text(" ".join(f"+{x}" for x in names))
    except OSError as error:
        log.info("engine: cgroups could not be nested, containers may not start: %s", error)


_DAEMON_HINTS = (
    (r"unable to configure the daemon|daemon\.json", f"correct {DAEMON_JSON}"),
    (
        r"iptables|nf_tables|nat table",
        "the kernel lacks what this iptables needs: update-alternatives --set iptables "
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
    (r"still running", "another dockerd is there: end it, or remove /var/run/docker.pid"),
    (
        r"failed to mount overlay|driver not supported",
        "in a container: start it with a volume at /var/lib/docker",
    ),
)


def did_not_start(text: str, where: str) -> EngineError:
    """Return the error for a daemon that did not come up: the end of its log, and a way out."""
    lines = [x for x in text.strip().splitlines() if x.strip()]
    errors = "\n".join(x for x in lines if "level=info" not in x).lower()
    hint = next((hint for pattern, hint in _DAEMON_HINTS if re.search(pattern, errors)), "")
    tail = "\n".join(f"    {x}" for x in lines[-12:])
    return EngineError(
        f"the engine did not come up within {START_SECONDS:.0f} s:\n{tail}",
        f"{hint or 'see what it says'}; the whole log: {where}",
    )
