"""The image under test as processes of this machine: its layers unpacked, no engine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from higgs_image import process
from higgs_image.oci.container_spec import ContainerSpec
from higgs_image.ports import free_port
from higgs_image.smoke.client import TimedClient
from higgs_image.smoke.record import Measured
from higgs_image.smoke.runner import Launch
from higgs_image.smoke.sandbox import Sandbox
from higgs_image.smoke.server import INTERVAL, RunningServer, wait_until_healthy

TICKS = os.sysconf("SC_CLK_TCK")


def sandbox(root: Path, config: Mapping[str, Any], spec: ContainerSpec) -> Sandbox:
    """Return the sandbox for a container's description.

    Args:
        root: the unpacked image.
        config: the image's configuration (`config` of the OCI document).
        spec: the container; its volumes have to be folders of this machine.
    """
    environment = dict(entry.split("=", 1) for entry in config.get("Env") or [])
    environment |= {"HOME": "/root", **spec.environment}
    return Sandbox(
        root,
        environment,
        folder=config.get("WorkingDir") or "/",
        mounts=spec.mounts,
        writable=spec.writable,
        gpu=bool(spec.gpus),
    )


class UnpackedServer(RunningServer):
    """A started image that is not in a container of an engine.

    Args:
        child: its first process, or what runs that.
        log_file: takes its output.
        port: of the server on 127.0.0.1.
    """

    def __init__(self, child: subprocess.Popen[bytes], log_file: Path, port: int) -> None:
        self._child, self._log = child, log_file
        self.client = TimedClient(port)

    def state(self) -> dict[str, Any]:
        """Return how it is, in Docker's words."""
        code = self._child.poll()
        code = 128 - code if code is not None and code < 0 else code
        status = "running" if code is None else "exited"
        return {"Status": status, "ExitCode": code or 0, "OOMKilled": False, "RestartCount": 0}

    def all_logs(self) -> bytes:
        """Return all that it has printed."""
        return self._log.read_bytes()

    def terminate(self) -> None:
        """Send SIGTERM to its first process, the child of what runs the sandbox."""
        for pid in self.process_ids()[1:2]:
            os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        for pid in [*_traced_by(self._child.pid), *reversed(self.process_ids())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._child.wait()

    def process_ids(self) -> list[int]:
        """Return its processes, as this machine numbers them; parents first."""
        children: dict[int, list[int]] = {}
        for pid, fields in _processes().items():
            children.setdefault(int(fields[1]), []).append(pid)
        found, left = [], [self._child.pid]
        while left:
            found.append(left.pop(0))
            left += sorted(children.get(found[-1], []))
        return found

    def cpu_seconds(self) -> float:
        """Return the processor time of its processes, and of those that have ended in them."""
        known = _processes()
        used = (known[pid][11:15] for pid in self.process_ids() if pid in known)
        return sum(int(ticks) for fields in used for ticks in fields) / TICKS

    def memory_mb(self) -> float:
        """Return the memory of its processes that is not a file's; shared parts count once."""
        total = 0
        for pid in self.process_ids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                        total += int(line.split()[1])
        return total * 1024 / 1e6

    def output_of(self, *command: str) -> str | None:
        """Return the output of a program of this machine, which has the same GPUs."""
        done = process.ask(*command)
        return done.out.strip() if done.code == 0 else None

    def summary(self) -> Measured:
        """Return how it ended."""
        state = self.state()
        return {"engine": "none", "status": state["Status"], "exit_code": state["ExitCode"]}


def _processes() -> dict[int, list[str]]:
    """Return the fields of /proc/PID/stat after the name, of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
    return found


def _traced_by(tracer: int) -> list[int]:
    """Return the processes that proot watches: also those whose parents have ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if f"\nTracerPid:\t{tracer}\n" in path.read_text():
                found.append(int(path.parent.name))
    return found


class UnpackedLaunch(Launch):
    """The image's own entrypoint in a sandbox of this machine.

    Args:
        place: the sandbox.
        command: entrypoint and arguments.
        scratch: an empty folder for what it writes.
    """

    def __init__(self, place: Sandbox, command: list[str], scratch: Path) -> None:
        self._place, self._command, self._scratch = place, command, scratch
        self._server: UnpackedServer | None = None

    @contextlib.contextmanager
    def created(self) -> Iterator[None]:
        """See to it that at the end nothing of it runs any more."""
        try:
            yield
        finally:
            if self._server:
                self._server.kill()

    def start(self, timeout: float) -> RunningServer:
        """Start it and wait until it is healthy.

        Raises:
            NotReadyError: the server does not start.
            EngineError: this machine allows no sandbox.
        """
        port = free_port()
        ours = {"PORT": str(port)}
        place = replace(self._place, environment={**self._place.environment, **ours})
        log_file = self._scratch / "server.log"
        command = place.command([*self._command, "--host", "127.0.0.1"], self._scratch)
        self._server = UnpackedServer(process.start(command, log_file), log_file, port)
        wait_until_healthy(self._server, timeout, INTERVAL)
        return self._server

    def started(self) -> RunningServer | None:
        """Return the server, if it was started."""
        return self._server


def run(place: Sandbox, command: list[str], scratch: Path, timeout: float) -> process.Completed:
    """Run a program in a sandbox to its end; an empty folder takes what it writes."""
    return process.run(place.command(command, scratch), timeout=timeout)
