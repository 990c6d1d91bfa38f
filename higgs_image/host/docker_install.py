"""`./inv engine`: make a Debian machine able to build, and say what was done.

Look (what is there), plan (what is missing), apply. What is there already is left alone: a newer
Docker, a daemon that answers, a daemon.json. Debian 12's own Docker is 20.10 without buildx, so
there the engine, its client and buildx come from Debian 13: the archive is the machine's own one,
pinned so low that nothing else is taken from it. Everything else, skopeo too, stays Debian 12's.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from higgs_image.errors import EngineError, ToolMissingError
from higgs_image.files import write_atomically
from higgs_image.host import apt, dockerd
from higgs_image.host.facts import (
    DAEMON_JSON,
    Machine,
    Version,
    decode,
    look,
    shown,
    version_in,
)
from higgs_image.process import ask
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)

MIN_ENGINE: Version = (23, 0, 0)
"""The first Docker Engine that builds with BuildKit by default and pulls zstd layers."""
MIN_BUILDX: Version = (0, 13, 0)
MIN_SKOPEO: Version = (1, 9, 3)
"""The first skopeo that keeps the digest of an image with zstd layers."""

_CONTAINERD = "containerd-snapshotter"


@dataclass(frozen=True)
class Plan:
    """What has to be done; nothing at all where everything is there.

    Attributes:
        packages: as `apt-get install` takes them: name, or name/release.
        source: content of apt.SOURCES_FILE; None if apt knows what it needs.
        daemon_json: content of DAEMON_JSON; None to leave it as it is.
        start: the daemon has to be started.
        steps: all of that, for a person.
        notes: what was left alone, and what that means.
    """

    packages: tuple[str, ...] = ()
    source: str | None = None
    daemon_json: str | None = None
    start: bool = False
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def missing(machine: Machine, *, registry: bool, signing: bool = False) -> dict[str, str]:
    """Return each thing that is missing or too old, by its Debian package, and what was found."""

    def low(found: Version | None, least: Version) -> bool:
        return found is None or found < least

    lack = {}
    if machine.engine is None and not machine.unasked and low(machine.dockerd, MIN_ENGINE):
        lack["docker.io"] = f"Docker Engine 23 or later (found: {shown(machine.dockerd)})"
    # Up to Docker 20.10 Debian's docker.io held the client too; the newer package does not.
    if machine.client is None or ("docker.io" in lack and low(machine.client, MIN_ENGINE)):
        lack["docker-cli"] = f"the docker command (found: {shown(machine.client)})"
    if low(machine.buildx, MIN_BUILDX):
        lack["docker-buildx"] = f"buildx 0.13 or later (found: {shown(machine.buildx)})"
    if low(machine.skopeo, MIN_SKOPEO):
        lack["skopeo"] = f"skopeo 1.9.3 or later (found: {shown(machine.skopeo)})"
    if not machine.certificates:
        lack["ca-certificates"] = "the bundle of certificate authorities"
    if registry and not machine.registry:
        lack["docker-registry"] = "docker-registry, a local registry"
    if registry and not machine.mmdebstrap:
        lack["mmdebstrap"] = "mmdebstrap, which makes a base image from Debian's packages"
    if signing and not machine.cosign:
        lack["cosign"] = "cosign, which signs images and checks signatures"
    return lack


def plan(machine: Machine, *, registry: bool = False, signing: bool = False) -> Plan:
    """Say what has to be done on a machine. Contacts nothing, changes nothing.

    Args:
        machine: what was found.
        registry: also a local registry and mmdebstrap, for the demonstration.
        signing: also cosign.

    Raises:
        ToolMissingError: something is missing and cannot be installed from here; the hint says
            what to install.
        EngineError: the engine is too old and in use, or is elsewhere and does not answer.
    """
    if machine.engine is not None and machine.engine < MIN_ENGINE:
        raise EngineError(
            f"the engine at {machine.endpoint} is Docker {shown(machine.engine)}, 23 or later is "
            "needed",
            "upgrade it yourself (its containers stop while it restarts), or stop it and run "
            "./inv engine again",
        )
    if machine.engine is None and machine.client is not None and not machine.local:
        raise EngineError(
            f"no engine answers at {machine.endpoint}: {machine.refusal}",
            "start it there, or unset DOCKER_HOST and DOCKER_CONTEXT (docker context use default) "
            "to use an engine on this machine",
        )
    lack = missing(machine, registry=registry, signing=signing)
    start = machine.engine is None and not machine.unasked
    if not lack and not start:
        return Plan(notes=_store_notes(machine))
    _require_able(machine, lack)
    source, packages = _packages(machine, lack)
    config, config_note = _configure(machine) if start else (None, "")
    if start:
        _require_startable(machine)
    steps = []
    if source:
        steps.append(f"write {apt.SOURCES_FILE} and {apt.PIN_FILE} (Debian 13, at priority 100)")
    if packages:
        steps.append(f"install {' '.join(packages)}")
    if config is not None:
        steps.append(f"write {DAEMON_JSON}: the containerd image store")
    if start:
        how = "systemctl enable --now docker" if machine.systemd else "dockerd, detached"
        steps.append(f"start the engine ({how})")
    notes = ((config_note,) if config_note else ()) + _store_notes(machine)
    return Plan(packages, source, config, start, tuple(steps), notes)


def _store_notes(machine: Machine) -> tuple[str, ...]:
    if machine.store != "classic":
        return ()
    return (
        "the engine keeps images in the classic store: the first build makes a container builder "
        f'for itself; "features": {{"{_CONTAINERD}": true}} in {DAEMON_JSON} and a restart of '
        "Docker would make that unnecessary (images of the classic store are then out of sight)",
    )


def _supported(machine: Machine) -> bool:
    """Tell whether this system's own packages are known to be new enough, or how to get there."""
    if machine.os_id not in ("debian", "ubuntu"):
        return False
    least = (12, 0, 0) if machine.os_id == "debian" else (24, 4, 0)
    version = version_in(f"{machine.os_version}.0")
    return version is None or version >= least  # Debian testing has no number


def _require_able(machine: Machine, lack: dict[str, str]) -> None:
    """Refuse where this pipeline cannot install, saying exactly what to install."""
    if machine.root and _supported(machine):
        return
    wanted = "; ".join(lack.values()) or "a running Docker Engine"
    if not machine.root and "permission denied" in machine.refusal.lower():
        raise ToolMissingError(
            f"this user may not talk to the engine at {machine.endpoint}",
            "as root: usermod -aG docker USER, then log in again; or run as root",
        )
    if _supported(machine):
        _, packages = _packages(machine, lack)
        manual = f"apt-get install {' '.join(packages)}" if packages else "start Docker"
        hint = f"as root: ./inv engine (it would: {manual})"
    else:
        hint = (
            "on this system install them yourself: Docker Engine 23 or later with its buildx "
            "plugin 0.13 or later (https://docs.docker.com/engine/install/), skopeo 1.9.3 or later"
            + (", docker-registry and mmdebstrap" if "mmdebstrap" in lack else "")
            + ", then start Docker"
        )
    name = f"{machine.os_id} {machine.os_version}".strip() or platform.system()
    who = "" if machine.root else ", not root"
    raise ToolMissingError(f"missing on this machine ({name}{who}): {wanted}", hint)


def _packages(machine: Machine, lack: dict[str, str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the apt source that is needed, and the packages with the release they come from."""
    names = [x for x in lack if not (machine.os_id == "ubuntu" and x == "docker-cli")]
    if machine.os_id == "ubuntu" and "docker-cli" in lack and "docker.io" not in names:
        names.insert(0, "docker.io")  # it holds the client there
    own = apt.archive(machine.sources, apt.OLD)
    from_new = {"docker.io", "docker-cli", "docker-buildx", "cosign"} & set(names)
    if machine.os_id != "debian" or not from_new or (own is None and machine.os_version != "12"):
        return None, tuple(names)
    packages = tuple(f"{x}/{apt.NEW}" if x in from_new else x for x in names)
    if apt.archive(machine.sources, apt.NEW) is not None:
        return None, packages
    if own is None:
        raise EngineError(
            f"apt has no source for Debian 12 ({apt.OLD}, main) to take Docker's archive from",
            f"add Debian's archive with the suites {apt.OLD} and {apt.NEW} to "
            "/etc/apt/sources.list.d, then run again",
        )
    return apt.render_source(own), packages


def _configure(machine: Machine) -> tuple[str | None, str]:
    """Return the daemon's new configuration (None: leave it), and what leaving it means."""
    config = decode(machine.daemon_json)
    if config is None:
        return None, f"{DAEMON_JSON} is no valid JSON and was left as it is: Docker will refuse it"
    features = config.get("features", {})
    chosen = features.get(_CONTAINERD) if isinstance(features, dict) else False
    if chosen is not None:
        return None, "" if chosen else f"{DAEMON_JSON} turns the containerd image store off: left"
    if machine.images or "storage-driver" in config:
        why = "there are images in the classic store" if machine.images else "it names a driver"
        return None, f"the image store stays the classic one: {why}"
    merged = config | {"features": features | {_CONTAINERD: True}}
    return json.dumps(merged, indent=None if not config else 4) + "\n", ""


def _require_startable(machine: Machine) -> None:
    """Refuse to start a daemon that could not run a container."""
    if machine.systemd:
        return
    if not machine.privileged:
        raise EngineError(
            "an engine cannot be started here: this is a container without the right to mount",
            "start the container with --privileged and a volume at /var/lib/docker, or give it "
            "the host's engine: -v /var/run/docker.sock:/var/run/docker.sock",
        )
    if machine.data_root_type == "overlay":
        raise EngineError(
            f"an engine cannot be started here: {machine.data_root} is on an overlay file system "
            "(this is a container), on which Docker cannot stack its own",
            f"start the container with a volume there: -v engine-data:{machine.data_root}",
        )


# Doing it -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What was done, or would be.

    Attributes:
        changed: something was missing.
        done: each step.
        notes: what was left alone, and what that means.
        engine: version of the engine that answers; empty in a dry run on a machine without one.
        store: containerd or classic: how it keeps images.
        seconds: how long it took.
    """

    changed: bool
    done: tuple[str, ...]
    notes: tuple[str, ...]
    engine: str
    store: str
    seconds: float
    dry_run: bool = False

    def text(self) -> str:
        """Return the report as a person reads it."""
        head = [] if self.changed else ["nothing to do: everything is there"]
        if self.changed:
            head = ["would do:" if self.dry_run else "done:", *(f"  {x}" for x in self.done)]
        end = [f"engine  Docker {self.engine}, {self.store} image store"] if self.engine else []
        return "\n".join([*head, *(f"note: {x}" for x in self.notes), *end])


def run(
    workspace: Workspace, *, registry: bool = False, signing: bool = False, dry_run: bool = False
) -> Report:
    """Install and start what is missing, and prove that it is there.

    Args:
        workspace: the log of a daemon that is started without systemd goes below its build folder.
        registry: also a local registry and mmdebstrap, for the demonstration.
        signing: also cosign.
        dry_run: only say what would be done.

    Raises:
        ToolMissingError: this machine is none that can be set up from here.
        EngineError: the daemon does not come up, or an old one is in the way.
        NetworkError: the package archive did not answer.
        BusyError: another apt holds its lock for too long.
        DiskFullError: the packages do not fit.
    """
    started = time.monotonic()
    machine = look()
    todo = plan(machine, registry=registry, signing=signing)
    if todo.steps and not dry_run:
        with workspace.exclusive("engine"):
            _apply(todo, machine, workspace.build / "logs" / "dockerd.log")
        machine = look()
        plan(
            machine, registry=registry, signing=signing
        )  # what could not be asked before can be now
        left = missing(machine, registry=registry, signing=signing)
        if left:
            raise EngineError(
                f"after the installation this is still missing: {'; '.join(left.values())}",
                f"an older program comes first on PATH ({shutil.which('docker')}, "
                f"{shutil.which('skopeo')}): remove it, then run again",
            )
        if machine.engine is None:
            raise EngineError(
                f"no engine answers at {machine.endpoint}: {machine.refusal}",
                "run ./inv engine again, and see invoke doctor",
            )
    return Report(
        changed=bool(todo.steps),
        done=todo.steps,
        notes=tuple(dict.fromkeys((*todo.notes, *_store_notes(machine)))),
        engine=shown(machine.engine) if machine.engine else "",
        store=machine.store,
        seconds=round(time.monotonic() - started, 3),
        dry_run=dry_run,
    )


def _apply(todo: Plan, machine: Machine, log_file: Path) -> None:
    if todo.source:
        log.info("engine: writing %s and %s", apt.SOURCES_FILE, apt.PIN_FILE)
        write_atomically(apt.PIN_FILE, apt.PIN.encode())  # first: never the source without its pin
        write_atomically(apt.SOURCES_FILE, todo.source.encode())
        for path in (apt.PIN_FILE, apt.SOURCES_FILE):
            path.chmod(0o644)
    if todo.daemon_json is not None:
        log.info("engine: writing %s", DAEMON_JSON)
        write_atomically(DAEMON_JSON, todo.daemon_json.encode())
    if todo.packages:
        with apt.services_held():
            apt.install(todo.packages)
        if "docker-registry" in todo.packages:  # it is run when it is wanted, not as a service
            if machine.systemd:
                ask("systemctl", "disable", "docker-registry")
            else:
                ask("update-rc.d", "docker-registry", "disable")
    if todo.start:
        dockerd.start(log_file, machine.endpoint, systemd=machine.systemd)
