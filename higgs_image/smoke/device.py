"""Choose the device for a container, and describe the container that runs on it."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_image import lockfile
from higgs_image.errors import UsageError
from higgs_image.labels import is_fake_fork
from higgs_image.oci.container_spec import ContainerSpec
from higgs_image.smoke import cpu_device
from higgs_image.smoke.record import DeviceType
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient

log = logging.getLogger(__name__)

CACHE = "higgs-audio-weights"
"""Volume that keeps the real weights between runs. It is never removed."""
WORKSPACE = "/workspace"
"""Where the image looks for a volume to keep weights on."""

HOOK = "nvidia-container-runtime-hook"
"""Program that the engine runs for a container with a GPU if no runtime of NVIDIA's is set."""

FAKE_FORK = {"HIGGS_DEVICE": "cpu", "HIGGS_MODEL": "/srv", "HIGGS_AUDIO_TOKENIZER": "/srv"}
"""Environment of a container of a fake fork's image, which uses neither GPU nor weights."""


def find_device(client: DockerClient) -> DeviceType:
    """Return `gpu` if the engine can give one to a container, else `cpu`.

    An engine does so by NVIDIA's runtime, by a description of the devices (CDI), or by a hook,
    which it does not report.
    """
    info = client.info()
    known = [*(info.get("Runtimes") or {}), *(x["ID"] for x in info.get("DiscoveredDevices") or ())]
    if any(name.startswith("nvidia") for name in known) or shutil.which(HOOK):
        return "gpu"
    if Path("/dev/nvidiactl").exists():
        log.warning(
            "this machine has an NVIDIA GPU, but the engine cannot give it to a container: "
            "install nvidia-container-toolkit, and see ./inv doctor"
        )
    return "cpu"


def choose_device(client: DockerClient, device: str) -> DeviceType:
    """Return the device type of `auto`, `gpu` or `cpu`.

    Raises:
        UsageError: it is another word.
    """
    if device == "auto":
        return find_device(client)
    if device not in ("gpu", "cpu"):
        raise UsageError(f"unknown device {device!r}", "use auto, gpu or cpu")
    return "gpu" if device == "gpu" else "cpu"


def spec_for(
    client: DockerClient,
    workspace: Workspace,
    image: str,
    device: DeviceType,
    *,
    gpus: str = "all",
    cache: str = CACHE,
) -> ContainerSpec:
    """Return a container of an image on a device: GPU and cache, or CPU device and its weights.

    Args:
        client: of the engine, which has the image.
        workspace: keeps the random weights of the CPU device.
        image: its name or digest.
        device: type of the device.
        gpus: ids of GPUs, or `all`.
        cache: volume or folder for the real weights.

    Raises:
        NoWeightsError: this image cannot make weights for the CPU device.
    """
    if device == "gpu":
        return on_gpu(image, str(Path(cache).resolve()) if "/" in cache else cache, gpus)
    if is_fake_fork(client.images.get(image).labels):
        return ContainerSpec(image, environment=FAKE_FORK)
    weights = cpu_device.weights(client, workspace, image, lockfile.load(workspace.lock_file))
    return ContainerSpec(image, environment=cpu_device.ENVIRONMENT,
                         mounts=cpu_device.mounts(workspace, weights))  # fmt: skip


def on_gpu(image: str, cache: str, gpus: str) -> ContainerSpec:
    """Return a container on GPUs, with a volume or folder for the real weights."""
    token = os.environ.get("HF_TOKEN")
    return ContainerSpec(
        image,
        environment={"HF_TOKEN": token} if token else {},
        mounts={cache: WORKSPACE},
        writable=frozenset((cache,)),
        gpus=gpus,
    )
