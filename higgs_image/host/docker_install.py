"""`./inv install-docker`: install and start what a Debian machine lacks for a build."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from higgs_image.errors import EngineError
from higgs_image.files import write_atomically
from higgs_image.host import apt, dockerd, facts
from higgs_image.host.facts import DAEMON_JSON, Machine, shown
from higgs_image.host.install_plan import InstallPlan, missing, plan, store_notes
from higgs_image.process import ask
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InstallReport:
    """The steps that were done, or would be.

    Attributes:
        changed: whether anything was missing.
        done: each step.
        notes: settings that were kept, and their effect.
        engine: version of the engine; empty in a dry run on a machine without one.
        store: its image store: containerd or classic.
        seconds: duration.
        dry_run: whether the steps were only planned.
    """

    changed: bool
    done: tuple[str, ...]
    notes: tuple[str, ...]
    engine: str
    store: str
    seconds: float
    dry_run: bool = False

    def text(self) -> str:
        """Return the report as text."""
        head = [] if self.changed else ["nothing to do"]
        if self.changed:
            head = ["would do:" if self.dry_run else "done:", *(f"  {x}" for x in self.done)]
        end = [f"engine  Docker {self.engine}, {self.store} image store"] if self.engine else []
        return "\n".join([*head, *(f"note: {x}" for x in self.notes), *end])


def run(
    workspace: Workspace, *, registry: bool = False, signing: bool = False, dry_run: bool = False
) -> InstallReport:
    """Install and start what is missing, and check the result.

    Args:
        workspace: its build folder gets the log of a daemon that is started without systemd.
        registry: also install a local registry and mmdebstrap, for the demonstration.
        signing: also install cosign.
        dry_run: only return the steps.

    Raises:
        ToolMissingError: nothing can be installed on this machine.
        EngineError: the daemon does not start, or is too old and in use.
        NetworkError: the package archive did not answer.
        BusyError: another apt holds its lock for too long.
        DiskFullError: the packages do not fit.
    """
    started = time.monotonic()
    machine = facts.probe()
    todo = plan(machine, registry=registry, signing=signing)
    if todo.steps and not dry_run:
        with workspace.exclusive("install-docker"):
            machine = facts.probe()  # another run may have done it meanwhile
            todo = plan(machine, registry=registry, signing=signing)
            _apply(todo, machine, workspace.build / "logs" / "dockerd.log")
        machine = facts.probe()
        plan(machine, registry=registry, signing=signing)  # the new client may find an old engine
        left = missing(machine, registry=registry, signing=signing)
        if left:
            raise EngineError(
                f"still missing after the installation: {'; '.join(left.values())}",
                f"an older program comes first on PATH ({shutil.which('docker')}, "
                f"{shutil.which('skopeo')}): remove it, then run again",
            )
        if machine.engine is None:
            raise EngineError(
                f"no engine answers at {machine.endpoint}: {machine.refusal}",
                "run ./inv install-docker again, and see ./inv doctor",
            )
    return InstallReport(
        changed=bool(todo.steps),
        done=todo.steps,
        notes=tuple(dict.fromkeys((*todo.notes, *store_notes(machine)))),
        engine=shown(machine.engine) if machine.engine else "",
        store=machine.store,
        seconds=round(time.monotonic() - started, 3),
        dry_run=dry_run,
    )


def _apply(todo: InstallPlan, machine: Machine, log_file: Path) -> None:
    if todo.source:
        log.info("install-docker: writing %s and %s", apt.SOURCES_FILE, apt.PIN_FILE)
        write_atomically(
            apt.PIN_FILE, apt.PIN.encode()
        )  # first: the source is never in force without its pin
        write_atomically(apt.SOURCES_FILE, todo.source.encode())
        for path in (apt.PIN_FILE, apt.SOURCES_FILE):
            path.chmod(0o644)
    if todo.daemon_json is not None:
        log.info("install-docker: writing %s", DAEMON_JSON)
        write_atomically(DAEMON_JSON, todo.daemon_json.encode())
    if todo.packages:
        with apt.services_held():
            apt.install(todo.packages)
        if "docker-registry" in todo.packages:  # it is started on demand, not as a service
            if machine.systemd:
                ask("systemctl", "disable", "docker-registry")
            else:
                ask("update-rc.d", "docker-registry", "disable")
    if todo.start:
        dockerd.start(log_file, machine.endpoint, systemd=machine.systemd)
