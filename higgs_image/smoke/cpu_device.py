"""The CPU device and its tiny random weights, for a container without a GPU."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_image.errors import EngineError
from higgs_image.files import new_folder, tree_sha256
from higgs_image.lockfile import Lock
from higgs_image.smoke.leftovers import owner_labels
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient

log = logging.getLogger(__name__)

DEVICE, WEIGHTS = "/mnt/higgs-cpu", "/mnt/higgs-cpu-weights"
"""Mount points of the device's package and of the weights."""

TIMEOUT = 600.0
"""Seconds to make the weights; on two cores it takes ten."""

ENVIRONMENT = {
    "PYTHONPATH": DEVICE,
    "HIGGS_DEVICE": "cpu",
    "HF_HUB_CACHE": WEIGHTS,
    "HF_HUB_OFFLINE": "1",
    "HIGGS_SEMANTIC_MODEL_PATH": f"{WEIGHTS}/semantic-model",
}


MAKER = {"PYTHONPATH": DEVICE, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"}  # noqa: S108 (in the container)
"""Environment of the script that makes the weights."""


def maker(revisions: list[str]) -> list[str]:
    """Return the command that makes the weights within the image; each as REPOSITORY=COMMIT."""
    flags = [part for entry in revisions for part in ("--revision", entry)]
    return ["python3", "-m", "higgs_cpu.checkpoint", WEIGHTS, *flags]


class NoWeightsError(EngineError):
    """The image cannot make weights, as it lacks what its server needs, too.

    Args:
        image: its name or digest.
        output: of the script that makes them; its last line is the reason.
    """

    def __init__(self, image: str, output: str) -> None:
        last = (output.strip().splitlines() or ["no output"])[-1]
        super().__init__(
            f"cannot make weights in {image}: {last[:300]}",
            "use an image that this project built; see fakes/cpu_device/README.md",
        )


def package(workspace: Workspace) -> Path:
    """Return the folder of the device's package."""
    return workspace.root / "fakes" / "cpu_device"


def mounts(workspace: Workspace, weights: Path) -> dict[str, str]:
    """Return the folders to mount read-only, and where."""
    return {str(package(workspace)): DEVICE, str(weights): WEIGHTS}


MakeWeights = Callable[[Path, list[str]], None]
"""Makes the weights in an empty folder; of revisions as REPOSITORY=COMMIT."""


def weights(client: DockerClient, workspace: Workspace, image: str, lock: Lock) -> Path:
    """Return the folder of the weights; the first call makes them in a container of the image.

    Args:
        client: of the engine.
        workspace: takes them below its build folder.
        image: has PyTorch and the audio tokenizer's class.
        lock: names repositories and revisions.

    Raises:
        NoWeightsError: this image cannot make them.
        EngineError: there is no such image.
    """
    make = functools.partial(make_weights, client, workspace, image)
    return kept_weights(workspace, lock, make)


def kept_weights(workspace: Workspace, lock: Lock, make: MakeWeights) -> Path:
    """Return the folder of the weights; the first call makes them.

    Raises:
        NoWeightsError: they cannot be made.
    """
    source = package(workspace)
    revisions = [f"{entry.repo}={entry.revision}" for entry in lock.weights if entry.revision]
    key = tree_sha256(sorted(source.rglob("*.py")), source)[:12]
    goal = workspace.build / "cpu-weights" / f"{key}-{lock.sha256[:7]}"
    with workspace.exclusive("cpu-weights"):
        if (goal / "higgs-cpu.json").is_file():
            return goal
        log.info("smoke: making random weights (once)")
        with new_folder(goal, ".*.new-*") as new:
            make(new, revisions)
        return goal


def make_weights(
    client: DockerClient, workspace: Workspace, image: str, folder: Path, revisions: list[str]
) -> None:
    """Make the weights in an empty folder.

    Args:
        client: of the engine.
        workspace: of the project.
        image: runs the script that makes them.
        folder: takes them.
        revisions: each as REPOSITORY=COMMIT.

    Raises:
        NoWeightsError: this image cannot make them.
        EngineError: there is no such image.
    """
    from docker.errors import APIError, ImageNotFound

    try:
        container = client.containers.create(
            image,
            maker(revisions)[1:],
            entrypoint="python3",
            environment=MAKER,
            volumes={
                str(package(workspace)): {"bind": DEVICE, "mode": "ro"},
                str(folder): {"bind": WEIGHTS, "mode": "rw"},
            },
            user=f"{os.getuid()}:{os.getgid()}",
            labels=owner_labels(workspace.build, lifetime=TIMEOUT + 60),
            network_mode="none",
        )
    except ImageNotFound as error:
        raise EngineError(
            f"there is no image {image}: {error.explanation}", "build it: ./inv build"
        ) from None
    try:
        container.start()
        if container.wait(timeout=TIMEOUT)["StatusCode"] != 0:
            said = container.logs(tail=20).decode(errors="replace").strip()
            log.info("%s", said)
            raise NoWeightsError(image, said)
    except APIError as error:  # it has no python3
        raise NoWeightsError(image, str(error.explanation)) from None
    finally:
        container.remove(force=True, v=True)
