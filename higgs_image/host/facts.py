"""What this machine has: its system, its engine, its tools. Changes nothing."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from higgs_image import process
from higgs_image.errors import ToolMissingError
from higgs_image.host.apt import AptSource, read_sources
from higgs_image.process import ask

Version = tuple[int, int, int]

DAEMON_JSON = Path("/etc/docker/daemon.json")
LOCAL_SOCKETS = ("unix:///var/run/docker.sock", "unix:///run/docker.sock")


def version_in(text: str) -> Version | None:
    """Return the first version number in a program's output; None if there is none."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def shown(version: Version | None) -> str:
    """Return a version as text."""
    return "none" if version is None else ".".join(map(str, version))


@dataclass(frozen=True)
class Machine:
    """The facts about this machine; a version is None where the program is missing.

    Attributes:
        os_id: from os-release, such as debian; empty where there is none.
        os_version: from os-release, such as 12; empty for Debian testing.
        root: whether this user may install packages.
        systemd: whether PID 1 is systemd.
        endpoint: the engine's address, as the docker client has it.
        engine: version of the engine that answers there.
        store: image store of that engine: containerd or classic.
        refusal: why no engine answers.
        listening: whether a local endpoint accepts connections.
        dockerd: version of the daemon's program.
        client: version of the docker command.
        buildx: version of its plugin.
        skopeo: its version.
        registry: whether docker-registry is installed.
        mmdebstrap: whether it is installed.
        cosign: whether it is installed.
        certificates: whether the bundle of certificate authorities exists.
        sources: apt's package sources.
        daemon_json: content of the daemon's configuration.
        images: whether the classic image store contains images.
        data_root: the daemon's folder.
        data_root_type: type of that file system.
        privileged: whether this process may mount, as a daemon must.
    """

    os_id: str
    os_version: str = ""
    root: bool = True
    systemd: bool = True
    endpoint: str = LOCAL_SOCKETS[0]
    engine: Version | None = None
    store: str = ""
    refusal: str = ""
    listening: bool = False
    dockerd: Version | None = None
    client: Version | None = None
    buildx: Version | None = None
    skopeo: Version | None = None
    registry: bool = False
    mmdebstrap: bool = False
    cosign: bool = False
    certificates: bool = True
    sources: tuple[AptSource, ...] = ()
    daemon_json: str | None = None
    images: bool = False
    data_root: Path = Path("/var/lib/docker")
    data_root_type: str = "ext4"
    privileged: bool = True

    @property
    def local(self) -> bool:
        """Whether the endpoint is on this machine, where an engine can be started.

        With systemd that is the default socket only. In a container DOCKER_HOST may name another
        one: GitHub's runners mount the host's engine at the default one.
        """
        return self.endpoint in LOCAL_SOCKETS or (
            not self.systemd and self.endpoint.startswith("unix://")
        )

    @property
    def unasked(self) -> bool:
        """Whether there may be an engine that cannot be asked, because the client is missing."""
        return self.client is None and (self.listening or not self.local)


def engine_info(timeout: float = 10) -> tuple[dict[str, Any], str]:
    """Return the output of `docker info`, and why no engine answers (empty if one does)."""
    asked = ask("docker", "info", "--format", "{{json .}}", timeout=timeout)
    try:
        info = json.loads(asked.out)
    except ValueError:
        info = {}
    if isinstance(info, dict) and info.get("ServerVersion"):
        return info, ""
    if asked.code == 124:
        return {}, f"it did not answer in {timeout:.0f} s"
    errors = info.get("ServerErrors") if isinstance(info, dict) else None
    lines = errors or asked.err.strip().splitlines() or [f"docker info: status {asked.code}"]
    return {}, str(lines[0])


def store_of(info: dict[str, Any]) -> str:
    """Return the image store of an engine: containerd or classic."""
    return (
        "containerd" if "io.containerd.snapshotter" in str(info.get("DriverStatus")) else "classic"
    )


def file_system(path: Path, mounts: str) -> str:
    """Return the type of the file system that contains a path.

    Args:
        path: need not exist.
        mounts: content of /proc/self/mounts.
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, found, *_ = line.split()
        inside = path == Path(point) or Path(point) in path.parents
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def read_text(path: Path) -> str | None:
    """Return the content of a file; None if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def decode(daemon_json: str | None) -> dict[str, Any] | None:
    """Return the daemon's configuration; None if it is not valid."""
    try:
        config = json.loads(daemon_json) if daemon_json and daemon_json.strip() else {}
    except ValueError:
        return None
    return config if isinstance(config, dict) else None


def probe() -> Machine:
    """Collect the facts about this machine."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    info, refusal = engine_info()
    context = ask("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    endpoint = os.environ.get("DOCKER_HOST") or context.out.strip() or LOCAL_SOCKETS[0]
    configured = read_text(DAEMON_JSON)
    root = Path(str((decode(configured) or {}).get("data-root", "/var/lib/docker")))
    capabilities = re.search(r"CapEff:\s*([0-9a-f]+)", read_text(Path("/proc/self/status")) or "")
    return Machine(
        os_id=system.get("ID", ""),
        os_version=system.get("VERSION_ID", ""),
        root=os.geteuid() == 0,
        systemd=Path("/run/systemd/system").is_dir(),
        endpoint=endpoint,
        engine=version_in(str(info.get("ServerVersion", ""))),
        store=store_of(info) if info else "",
        refusal=refusal,
        listening=_listening(Path(endpoint.removeprefix("unix://"))),
        dockerd=version_in(ask("dockerd", "--version").out),
        client=version_in(ask("docker", "--version").out),
        buildx=version_in(ask("docker", "buildx", "version").out),
        skopeo=version_in(ask("skopeo", "--version").out),
        registry=_installed("docker-registry"),
        mmdebstrap=_installed("mmdebstrap"),
        cosign=_installed("cosign"),
        certificates=Path("/etc/ssl/certs/ca-certificates.crt").exists(),
        sources=read_sources(),
        daemon_json=configured,
        images=any(root.glob("image/*/imagedb/content/sha256/*")),
        data_root=root,
        data_root_type=file_system(root.resolve(), read_text(Path("/proc/self/mounts")) or ""),
        privileged=bool(capabilities and int(capabilities[1], 16) >> 21 & 1),  # CAP_SYS_ADMIN
    )


def _listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        return probe.connect_ex(str(path)) == 0


def _installed(program: str) -> bool:
    try:
        process.find(program)
    except ToolMissingError:
        return False
    return True
