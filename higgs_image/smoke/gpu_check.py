"""The smoke test on a machine without an engine: an image's layers, unpacked and started."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from higgs_image import lockfile, process
from higgs_image.labels import is_fake_fork
from higgs_image.oci.container_spec import ContainerSpec
from higgs_image.oci.unpack import unpack
from higgs_image.smoke import cpu_device, session, unpacked
from higgs_image.smoke.device import FAKE_FORK, WORKSPACE, on_gpu
from higgs_image.smoke.layers import LayersOnDisk, find
from higgs_image.smoke.record import DeviceType, Record
from higgs_image.smoke.session import SmokeOptions
from higgs_image.workspace import Workspace

UNPACKED_GB = 6.0
"""Free disk for the files of the real image."""
KEPT_GB = 0.5
"""The same for the fake fork's."""
DRIVER_NODE = Path("/dev/nvidiactl")
"""Is there where a driver is loaded and this user may see its GPUs."""


def run(workspace: Workspace, options: SmokeOptions) -> tuple[Record, Path]:
    """Unpack an image, start it, check it, end it, and write the record and its evidence.

    Args:
        workspace: takes the unpacked files, the weights and the evidence below its build folder.
        options: as of a smoke test. `image` is a layout's folder or an image in a registry,
            `cache` a folder for the real weights; `gpus`, `keep` and `shm_size` have no effect.

    Returns:
        The record and the folder that holds it.

    Raises:
        UsageError: a check is unknown, or there is no such image.
        EngineError: this machine allows no sandbox.
    """
    options.require_known_checks()
    with (
        workspace.exclusive("smoke"),
        workspace.scratch("sandbox") as scratch,
        process.sigterm_interrupts(),
    ):
        found = find(workspace, options.image)
        device = choose(options.device)
        root = unpacked_root(workspace, found)

        def launched(folder: Path) -> unpacked.UnpackedLaunch:
            spec = spec_for(workspace, found, root, device, options.cache)
            spec = session.with_voice(spec, options, folder / "voices")
            return launch(found, root, spec, scratch)

        return session.run_with(launched, workspace, options, found.identity, device)


def choose(device: str) -> DeviceType:
    """Return the device type of `auto`, `gpu` or `cpu`: a GPU if this machine has one."""
    if device == "auto":
        return "gpu" if DRIVER_NODE.exists() else "cpu"
    return "gpu" if device == "gpu" else "cpu"


def unpacked_root(workspace: Workspace, found: LayersOnDisk) -> Path:
    """Return the folder with an image's files; the first call unpacks them."""
    digest = found.image.digest.removeprefix("sha256:")
    root = workspace.build / "roots" / digest[:12]
    if not root.is_dir():
        needed = KEPT_GB if is_fake_fork(found.image.labels) else UNPACKED_GB
        workspace.require_disk(workspace.build, needed, "unpacking the image")
    unpack(found.folder, found.image, root)
    return root


def launch(
    found: LayersOnDisk, root: Path, spec: ContainerSpec, scratch: Path
) -> unpacked.UnpackedLaunch:
    """Return how the image is started as its own configuration says."""
    config = found.config
    command = [*(config.get("Entrypoint") or []), *(spec.arguments or config.get("Cmd") or [])]
    return unpacked.UnpackedLaunch(unpacked.sandbox(root, config, spec), command, scratch)


def spec_for(
    workspace: Workspace, found: LayersOnDisk, root: Path, device: DeviceType, cache: str
) -> ContainerSpec:
    """Return the container that users start on this device: GPU and weights, or CPU device.

    Raises:
        NoWeightsError: this image cannot make weights for the CPU device.
    """
    digest = found.image.digest
    if device == "gpu":
        source = Path(cache or workspace.build / "gpu-weights").resolve()
        source.mkdir(parents=True, exist_ok=True)
        spec = on_gpu(digest, str(source), "all")
        home = {"HF_HOME": f"{WORKSPACE}/.cache/huggingface"}
        return dataclasses.replace(spec, environment={**spec.environment, **home})
    if is_fake_fork(found.image.labels):
        return ContainerSpec(digest, environment=FAKE_FORK)

    def make(folder: Path, revisions: list[str]) -> None:
        mounts: Mapping[str, str] = cpu_device.mounts(workspace, folder)
        spec = ContainerSpec(
            digest, environment=cpu_device.MAKER, mounts=mounts,
            writable=frozenset((str(folder),)),
        )  # fmt: skip
        place = unpacked.sandbox(root, found.config, spec)
        with workspace.scratch("weights") as scratch:
            done = unpacked.run(place, cpu_device.maker(revisions), scratch, cpu_device.TIMEOUT)
        if done.code != 0:
            raise cpu_device.NoWeightsError(digest, done.out + done.err)

    weights = cpu_device.kept_weights(workspace, lockfile.load(workspace.lock_file), make)
    return ContainerSpec(digest, environment=cpu_device.ENVIRONMENT,
                         mounts=cpu_device.mounts(workspace, weights))  # fmt: skip
