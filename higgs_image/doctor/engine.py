"""Doctor's checks of this machine: engine, tools, disk, GPU. Each makes one short attempt."""

from __future__ import annotations

import socket
from pathlib import Path

from higgs_image.build import buildkit, image
from higgs_image.doctor.model import (
    ANSWER_SECONDS,
    Result,
    Subject,
    failed,
    last_line,
    passed,
    undecided,
)
from higgs_image.host import install_plan
from higgs_image.host.facts import file_system, shown, store_of, version_in
from higgs_image.process import ask
from higgs_image.workspace import free_disk

MIN_SKOPEO_CLASSIC = (1, 14, 2)
"""The first skopeo that negotiates the API version; Docker 25 refuses older ones."""


def check_engine(subject: Subject) -> Result:
    """Check that an engine answers, is new enough, and can store images."""
    info = subject.info
    if not info:
        remedy = "start Docker; on Debian as root: ./inv install-docker"
        if "permission denied" in subject.refusal.lower():
            remedy = "as root: usermod -aG docker USER, then log in again"
        return failed(f"no engine answers: {subject.refusal}", remedy)
    version = version_in(str(info.get("ServerVersion")))
    found = f"Docker {shown(version)}, {store_of(info)} image store"
    if version is None or version < install_plan.MIN_ENGINE:
        return failed(f"{found}; 23 or later is needed", "upgrade it; see ./inv install-docker")
    root = engine_root(subject)
    mounts = Path("/proc/self/mounts")
    if root and mounts.exists() and file_system(root, mounts.read_text()) == "overlay":
        return failed(
            f"{found}; its data in {root} is on an overlay file system, where no container starts",
            f"start this container with a volume at {root}",
        )
    return passed(found)


def engine_root(subject: Subject) -> Path | None:
    """Return the folder that contains the engine's images; None if it is on another machine."""
    root = Path(str(subject.info.get("DockerRootDir", "")))
    if subject.info.get("Name") != socket.gethostname() or not root.is_dir():
        return None
    # As a service, Docker stores them in the system's containerd.
    apart = Path("/var/lib/containerd")
    shared = Path("/run/containerd/containerd.sock").exists()
    if store_of(subject.info) == "containerd" and shared and any(apart.glob("*metadata*")):
        return apart
    return root


def check_buildx(_: Subject) -> Result:
    """Check that buildx is installed and new enough."""
    asked = ask("docker", "buildx", "version", timeout=ANSWER_SECONDS)
    version = version_in(asked.out) if asked.code == 0 else None
    if version is None or version < install_plan.MIN_BUILDX:
        found = f"buildx {shown(version)}" if version else "docker has no buildx command"
        return failed(
            f"{found}; 0.13 or later is needed",
            "install docker-buildx; on Debian as root: ./inv install-docker",
        )
    return passed(f"buildx {shown(version)}")


def check_builder(subject: Subject) -> Result:
    """Check that a builder can write OCI layouts. Creates none."""
    if not subject.info:
        return undecided("no engine answers")
    if store_of(subject.info) == "containerd":
        return passed("the engine's own builder writes OCI layouts")
    asked = ask("docker", "buildx", "inspect", buildkit.BUILDER, timeout=ANSWER_SECONDS)
    if asked.code == 0:
        return passed(f"the container builder {buildkit.BUILDER} writes OCI layouts")
    return undecided(
        "the classic image store cannot write OCI layouts; the first build creates the container "
        f"builder {buildkit.BUILDER}, which pulls BuildKit's image",
        'where it cannot be pulled: "features": {"containerd-snapshotter": true} in '
        "/etc/docker/daemon.json, and restart Docker",
    )


def check_skopeo(subject: Subject) -> Result:
    """Check that skopeo is installed and new enough, also for this engine."""
    version = version_in(ask("skopeo", "--version", timeout=ANSWER_SECONDS).out)
    if version is None or version < install_plan.MIN_SKOPEO:
        found = f"skopeo {shown(version)}" if version else "skopeo is not installed"
        return failed(
            f"{found}; 1.9.3 or later is needed",
            "install skopeo; on Debian as root: ./inv install-docker",
        )
    server = version_in(str(subject.info.get("ServerVersion", "")))
    classic = bool(subject.info) and store_of(subject.info) == "classic"
    if classic and server and server >= (25, 0, 0) and version < MIN_SKOPEO_CLASSIC:
        return failed(
            f"skopeo {shown(version)} cannot load images into the classic image store of Docker "
            f"{shown(server)}, which needs a newer API",
            "build with --no-load, install skopeo 1.14.2 or later, or turn on the containerd image "
            'store: "features": {"containerd-snapshotter": true} in /etc/docker/daemon.json',
        )
    return passed(f"skopeo {shown(version)}")


def check_git(_: Subject) -> Result:
    """Check that git is installed."""
    asked = ask("git", "--version", timeout=ANSWER_SECONDS)
    if asked.code != 0:
        return failed("git is not installed", "install git")
    return passed(f"git {shown(version_in(asked.out))}")


def enough_disk(path: Path, built: bool) -> Result:
    """Compare the free space at a path with the space that a build needs.

    Args:
        path: need not exist.
        built: whether an image was built already; another one needs less.
    """
    path, free = free_disk(path)
    least = 5.0 if built else image.DISK_GB
    found = f"{free:.1f} GB free at {path}, a build needs {least:.0f}"
    if free < least:
        return failed(found, "free space there (docker builder prune; docker image prune)")
    return passed(found)


def _built(subject: Subject) -> bool:
    return any(subject.workspace.layout(x).exists() for x in image.COMPRESSIONS)


def check_disk(subject: Subject) -> Result:
    """Check that the layout fits below build/."""
    return enough_disk(subject.workspace.build, _built(subject))


def check_engine_disk(subject: Subject) -> Result:
    """Check that the layers fit on the engine's disk."""
    root = engine_root(subject)
    if root is None:
        why = "the engine is on another machine" if subject.info else "no engine answers"
        return undecided(why, f"it needs {image.DISK_GB:.0f} GB free there")
    return enough_disk(root, _built(subject))


def check_gpu(_: Subject) -> Result:
    """Check that there is a GPU. A build needs none."""
    asked = ask(
        "nvidia-smi",
        "--query-gpu=name,memory.total,driver_version",
        "--format=csv,noheader",
        timeout=ANSWER_SECONDS,
    )
    if asked.code == 0 and asked.out.strip():
        return passed("; ".join(asked.out.strip().splitlines()))
    why = "no NVIDIA driver (nvidia-smi)" if asked.code == 127 else last_line(asked.out + asked.err)
    return undecided(
        f"{why}: the smoke test runs on a CPU, which proves neither kernels nor sound quality",
        "build and push need no GPU; run the smoke test on a machine with one",
    )


def check_gpu_toolkit(subject: Subject) -> Result:
    """Check that containers can get a GPU."""
    if "nvidia" in (subject.info.get("Runtimes") or {}):
        return passed("the engine has the runtime nvidia")
    return undecided(
        "the engine has no runtime nvidia: containers get no GPU, the smoke test runs on a CPU",
        "on a machine with a GPU: install nvidia-container-toolkit, then "
        "nvidia-ctk runtime configure --runtime=docker, and restart Docker",
    )
