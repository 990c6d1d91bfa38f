"""What has to be installed on a Debian machine for a build. Contacts nothing, changes nothing.

Debian 12's own Docker is 20.10 without buildx. There the engine, its client and buildx come from
Debian 13: from the archive that this machine uses, with so low a priority that nothing else is
taken from it. A newer Docker, a daemon that answers and a daemon.json are kept.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass

from higgs_image.errors import EngineError, ToolMissingError
from higgs_image.host import apt
from higgs_image.host.facts import DAEMON_JSON, Machine, Version, decode, shown, version_in

MIN_ENGINE: Version = (23, 0, 0)
"""The first Docker Engine that builds with BuildKit by default and pulls zstd layers."""
MIN_BUILDX: Version = (0, 13, 0)
MIN_SKOPEO: Version = (1, 9, 3)
"""The first skopeo that keeps the digest of an image with zstd layers."""

_CONTAINERD = "containerd-snapshotter"


@dataclass(frozen=True)
class InstallPlan:
    """The steps of an installation; empty where nothing is missing.

    Attributes:
        packages: as `apt-get install` takes them: name, or name/release.
        source: content of apt.SOURCES_FILE; None if it is not needed.
        daemon_json: content of DAEMON_JSON; None to keep it.
        start: whether the daemon has to be started.
        steps: a description of each step.
        notes: settings that are kept, and their effect.
    """

    packages: tuple[str, ...] = ()
    source: str | None = None
    daemon_json: str | None = None
    start: bool = False
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def missing(machine: Machine, *, registry: bool, signing: bool = False) -> dict[str, str]:
    """Return what is missing or too old: Debian package to description."""

    def low(found: Version | None, least: Version) -> bool:
        return found is None or found < least

    lack = {}
    if machine.engine is None and not machine.unasked and low(machine.dockerd, MIN_ENGINE):
        lack["docker.io"] = f"Docker Engine 23 or later (found: {shown(machine.dockerd)})"
    # Debian's docker.io contains the client up to Docker 20.10 only.
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


def plan(machine: Machine, *, registry: bool = False, signing: bool = False) -> InstallPlan:
    """Return the steps that a machine needs.

    Args:
        machine: from facts.probe.
        registry: also install a local registry and mmdebstrap, for the demonstration.
        signing: also install cosign.

    Raises:
        ToolMissingError: something is missing and cannot be installed here; the hint says what to
            install.
        EngineError: the engine is too old and in use, or is remote and does not answer.
    """
    if machine.engine is not None and machine.engine < MIN_ENGINE:
        raise EngineError(
            f"the engine at {machine.endpoint} is Docker {shown(machine.engine)}, 23 or later is "
            "needed",
            "upgrade it yourself (its containers stop while it restarts), or stop it and run "
            "./inv install-docker again",
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
        return InstallPlan(notes=store_notes(machine))
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
    notes = ((config_note,) if config_note else ()) + store_notes(machine)
    return InstallPlan(packages, source, config, start, tuple(steps), notes)


def store_notes(machine: Machine) -> tuple[str, ...]:
    """Return a note about the image store that this engine uses, if it matters."""
    if machine.store != "classic":
        return ()
    return (
        "the engine uses the classic image store: the first build creates a container builder; "
        f'"features": {{"{_CONTAINERD}": true}} in {DAEMON_JSON} and a restart of Docker make '
        "that unnecessary (images of the classic store are hidden then)",
    )


def _supported(machine: Machine) -> bool:
    """Tell whether this system has packages that are new enough."""
    if machine.os_id not in ("debian", "ubuntu"):
        return False
    least = (12, 0, 0) if machine.os_id == "debian" else (24, 4, 0)
    version = version_in(f"{machine.os_version}.0")
    return version is None or version >= least  # Debian testing has no number


def _require_able(machine: Machine, lack: dict[str, str]) -> None:
    """Refuse where nothing can be installed; the hint says what to install."""
    if machine.root and _supported(machine):
        return
    wanted = "; ".join(lack.values()) or "a running Docker Engine"
    if not machine.root and "permission denied" in machine.refusal.lower():
        raise ToolMissingError(
            f"this user has no access to the engine at {machine.endpoint}",
            "as root: usermod -aG docker USER, then log in again; or run as root",
        )
    if _supported(machine):
        _, packages = _packages(machine, lack)
        manual = f"apt-get install {' '.join(packages)}" if packages else "start Docker"
        hint = f"as root: ./inv install-docker (it would: {manual})"
    else:
        hint = (
            "install them yourself: Docker Engine 23 or later with its buildx "
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
        names.insert(0, "docker.io")  # it contains the client there
    own = apt.archive(machine.sources, apt.OLD)
    from_new = {"docker.io", "docker-cli", "docker-buildx", "cosign"} & set(names)
    if machine.os_id != "debian" or not from_new or (own is None and machine.os_version != "12"):
        return None, tuple(names)
    packages = tuple(f"{x}/{apt.NEW}" if x in from_new else x for x in names)
    if apt.archive(machine.sources, apt.NEW) is not None:
        return None, packages
    if own is None:
        raise EngineError(
            f"apt has no source for Debian 12 ({apt.OLD}, main)",
            f"add Debian's archive with the suites {apt.OLD} and {apt.NEW} to "
            "/etc/apt/sources.list.d, then run again",
        )
    return apt.render_source(own), packages


def _configure(machine: Machine) -> tuple[str | None, str]:
    """Return the daemon's new configuration (None to keep it), and the effect of keeping it."""
    config = decode(machine.daemon_json)
    if config is None:
        return None, f"{DAEMON_JSON} is not valid JSON and was kept: Docker will refuse it"
    features = config.get("features", {})
    chosen = features.get(_CONTAINERD) if isinstance(features, dict) else False
    if chosen is not None:
        return (
            None,
            "" if chosen else f"{DAEMON_JSON} turns off the containerd image store, and was kept",
        )
    if machine.images or "storage-driver" in config:
        why = "it contains images" if machine.images else f"{DAEMON_JSON} names a driver"
        return None, f"the classic image store was kept: {why}"
    merged = config | {"features": features | {_CONTAINERD: True}}
    return json.dumps(merged, indent=None if not config else 4) + "\n", ""


def _require_startable(machine: Machine) -> None:
    """Refuse to start a daemon that could not run containers."""
    if machine.systemd:
        return
    if not machine.privileged:
        raise EngineError(
            "an engine cannot be started here: this container may not mount",
            "start this container with --privileged and a volume at /var/lib/docker, or give it "
            "the host's engine: -v /var/run/docker.sock:/var/run/docker.sock",
        )
    if machine.data_root_type == "overlay":
        raise EngineError(
            f"an engine cannot be started here: {machine.data_root} is on an overlay file system, "
            "which Docker cannot use",
            f"start this container with a volume there: -v engine-data:{machine.data_root}",
        )
