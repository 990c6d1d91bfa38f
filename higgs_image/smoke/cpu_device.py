"""What a container is given where there is no GPU: the stand-in device, and tiny random weights."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_image.errors import EngineError
from higgs_image.files import replace_folder, tree_sha256
from higgs_image.lockfile import Lock
from higgs_image.smoke.container import labels
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient

log = logging.getLogger(__name__)

DEVICE, WEIGHTS = "/mnt/higgs-cpu", "/mnt/higgs-cpu-weights"
"""Where the device's package and the weights are mounted."""

PATIENCE = 600.0
"""Seconds that weights may take; on two cores they take ten."""

ENVIRONMENT = {
    "PYTHONPATH": DEVICE,
    "HIGGS_DEVICE": "cpu",
    "HF_HUB_CACHE": WEIGHTS,
    "HF_HUB_OFFLINE": "1",
    "HIGGS_SEMANTIC_MODEL_PATH": f"{WEIGHTS}/semantic-model",
}


class NoWeightsError(EngineError):
    """The image cannot make weights: it lacks what its server needs, too."""


def package(workspace: Workspace) -> Path:
    """Return the folder of the device's package."""
    return workspace.root / "fakes" / "cpu_device"


def weights(client: DockerClient, workspace: Workspace, image: str, lock: Lock) -> Path:
    """Return the folder of the weights; they are made in a container of the image, once.

    Args:
        client: of the engine.
        workspace: takes them below its build folder.
        image: has PyTorch and the audio tokenizer's class.
        lock: names repositories and revisions.

    Raises:
        NoWeightsError: they could not be made in this image.
        EngineError: there is no such image.
    """
    source = package(workspace)
    revisions = [f"{entry.repo}={entry.revision}" for entry in lock.weights if entry.revision]
    key = tree_sha256(sorted(source.rglob("*.py")), source)[:12]
    goal = workspace.build / "cpu-weights" / f"{key}-{lock.sha256[:7]}"
    with workspace.exclusive("cpu-weights"):
        if (goal / "higgs-cpu.json").is_file():
            return goal
        log.info("smoke: making random weights (once)")
        goal.parent.mkdir(parents=True, exist_ok=True)
        for left in goal.parent.glob(".new-*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=goal.parent))
        try:
            _run(client, workspace, image, new, revisions)
            replace_folder(new, goal)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return goal


def _run(
    client: DockerClient, workspace: Workspace, image: str, folder: Path, revisions: list[str]
) -> None:
    from docker.errors import APIError, ImageNotFound

    flags = [part for entry in revisions for part in ("--revision", entry)]
    try:
        container = client.containers.create(
            image,
            ["-m", "higgs_cpu.checkpoint", WEIGHTS, *flags],
            entrypoint="python3",
            environment={"PYTHONPATH": DEVICE, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"},  # noqa: S108 (in the container)
            volumes={
                str(package(workspace)): {"bind": DEVICE, "mode": "ro"},
                str(folder): {"bind": WEIGHTS, "mode": "rw"},
            },
            user=f"{os.getuid()}:{os.getgid()}",
            labels=labels(workspace.build),
            network_mode="none",
        )
    except ImageNotFound as error:
        raise EngineError(
            f"there is no image {image}: {error.explanation}", "build it: invoke build"
        ) from None
    remedy = "an image of this project has what is needed: see fakes/cpu_device/README.md"
    try:
        container.start()
        if container.wait(timeout=PATIENCE)["StatusCode"] != 0:
            said = container.logs(tail=20).decode(errors="replace").strip()
            log.info("%s", said)
            last = (said.splitlines() or ["it says nothing"])[-1]
            raise NoWeightsError(f"no weights could be made in {image}: {last[:300]}", remedy)
    except APIError as error:  # it has no python3
        raise NoWeightsError(
            f"no weights could be made in {image}: {error.explanation}", remedy
        ) from None
    finally:
        container.remove(force=True, v=True)
