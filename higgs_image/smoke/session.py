"""A whole smoke test: from an image's name to a record with its evidence."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import os
import shutil
import signal
import struct
import time
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_image import lockfile
from higgs_image.build import image as build_image
from higgs_image.demo import fake_fork
from higgs_image.errors import EngineError, UsageError
from higgs_image.labels import LABEL
from higgs_image.oci.daemon import engine
from higgs_image.smoke import container, cpu_device, record, report, runner
from higgs_image.smoke.checks import CHECKS, OWN_VOICE, START
from higgs_image.smoke.container import Setup
from higgs_image.smoke.record import REQUIRED, Image, Kind, Record
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient

log = logging.getLogger(__name__)

START_SECONDS = {"gpu": 1800.0, "cpu": 300.0}
"""Time to become healthy, unless told otherwise; on a GPU the weights may have to be downloaded."""

CACHE = "higgs-audio-weights"
"""Volume that keeps the real weights from one run to the next. It is not removed."""
WORKSPACE = "/workspace"
"""Where the image looks for a volume to keep weights on."""
VOICES = "/mnt/voices"
"""Where the folder with a voice of our own is mounted."""

HOOK = "nvidia-container-runtime-hook"
"""Program that the engine runs for a container with a GPU, where no runtime of NVIDIA's is set."""


@dataclass(frozen=True)
class Options:
    """What `invoke smoke` was asked for.

    Attributes:
        image: name or digest; empty: the image that was built last.
        device: `gpu`, `cpu`, or `auto`: a GPU if the engine has one.
        gpus: ids of GPUs, or `all`.
        timeout: seconds until it has to be healthy; 0: as START_SECONDS has it.
        keep: leave the container behind, for looking at it.
        shm_size: of /dev/shm; empty: the host's IPC namespace.
        cache: volume or folder for the real weights.
        only: names of checks; empty: all. What is left out is not decided.
        patience: seconds without a byte after which an answer counts as hanging.
        environment: more variables for the container.
    """

    image: str = ""
    device: str = "auto"
    gpus: str = "all"
    timeout: float = 0.0
    keep: bool = False
    shm_size: str = ""
    cache: str = CACHE
    only: frozenset[str] = field(default_factory=frozenset)
    patience: float = 120.0
    environment: Mapping[str, str] = field(default_factory=dict)


def run(workspace: Workspace, options: Options) -> tuple[Record, Path]:
    """Start the image, check it, end it, and write the record and its evidence.

    Returns:
        The record and the folder that holds it.

    Raises:
        UsageError: device or check unknown, or no image was built yet.
        EngineError: no engine, no such image, or the engine refused to start it.
    """
    _validate(options)
    with (
        workspace.exclusive("smoke"),
        _ended_by_sigterm(),
        engine() as (client, host),
        container.nothing_left(client, workspace.build),
    ):
        started, begun = datetime.datetime.now(datetime.UTC), time.monotonic()
        reference = options.image or last_built(workspace)
        image = describe(client, reference)
        kind = _kind(client, options.device)
        folder = _fresh_folder(workspace, image, kind)
        log.info("smoke: %s on %s", reference, kind)
        try:
            setup = setup_for(client, workspace, options, reference, kind, folder)
        except cpu_device.NoWeightsError as error:
            found = runner.not_started("fail", error.message, kind)
        else:
            found = runner.observe(
                setup,
                host,
                kind,
                folder,
                timeout=options.timeout or START_SECONDS[kind],
                patience=options.patience,
                only=options.only,
            )
        verdict, reason = record.overall(found.checks, REQUIRED[kind])
        done = Record(
            schema=record.SCHEMA,
            verdict=verdict,
            reason=reason,
            image=image,
            device=found.device,
            started=started.replace(microsecond=0),
            seconds=round(time.monotonic() - begun, 1),
            checks=found.checks,
            container=found.ended,
        )
        record.save(done, folder / "record.json")
        report.save(done, folder)
        return done, folder


def _validate(options: Options) -> None:
    if options.device not in ("auto", "gpu", "cpu"):
        raise UsageError(f"device {options.device!r} is unknown", "use auto, gpu or cpu")
    known = {START, *(check.name for check in CHECKS)}
    if unknown := sorted(options.only - known):
        raise UsageError(
            f"there is no check {', '.join(unknown)}", f"there are {', '.join(sorted(known))}"
        )


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, which CI systems send, end the run as Ctrl-C does: cleaned up."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def last_built(workspace: Workspace) -> str:
    """Return the name by which the engine has the image that was built last.

    Raises:
        UsageError: none was built, or the engine does not have it any more.
    """
    states = [workspace.build / "state" / f"build-{name}.json" for name in build_image.COMPRESSIONS]
    found = sorted((x for x in states if x.is_file()), key=lambda x: x.stat().st_mtime)
    remedy = "build one: invoke build; or name one: invoke smoke IMAGE"
    if not found:
        raise UsageError("no image was built yet", remedy)
    digest = str(workspace.read_state(found[-1].stem).get("digest"))
    if build_image.engine_digest(digest) is None:
        raise UsageError(f"the engine does not have {digest}, which was built last", remedy)
    return digest


def describe(client: DockerClient, reference: str) -> Image:
    """Return which image it is; one that the engine lacks is pulled.

    Raises:
        EngineError: it is neither there nor to be had.
    """
    from docker.errors import APIError, ImageNotFound

    try:
        try:
            found = client.images.get(reference)
        except ImageNotFound:
            log.info("smoke: pulling %s", reference)
            found = client.images.pull(reference)
    except APIError as error:
        raise EngineError(
            f"there is no image {reference}: {error.explanation or error}",
            "build it, load it, or log in to the registry that has it",
        ) from None
    labels = found.labels or {}
    return Image(
        reference=reference,
        digest=_digest(reference, str(found.id), found.attrs.get("RepoDigests") or []),
        tag=str(labels.get("org.opencontainers.image.version", "")),
        lock_sha256=labels.get(LABEL + "lock-sha256") or None,
    )


def _digest(reference: str, identity: str, known: list[str]) -> str | None:
    """Return the digest that a registry has it by.

    The containerd store's ids are such digests; the classic store knows only what it pulled.
    """
    name, _, digest = reference.rpartition("@")
    if name and digest.startswith("sha256:"):
        return digest
    digests = [entry.rpartition("@")[2] for entry in known]
    if identity in digests:
        return identity
    return digests[0] if digests else None


def find_device(client: DockerClient) -> Kind:
    """Return `gpu` if the engine can give containers one, else `cpu`.

    It does so by NVIDIA's runtime, by a description of the devices (CDI), or by the hook alone,
    of which it tells nothing.
    """
    info = client.info()
    known = [*(info.get("Runtimes") or {}), *(x["ID"] for x in info.get("DiscoveredDevices") or ())]
    found = any(name.startswith("nvidia") for name in known) or shutil.which(HOOK)
    return "gpu" if found else "cpu"


def _kind(client: DockerClient, wanted: str) -> Kind:
    if wanted != "auto":
        return "gpu" if wanted == "gpu" else "cpu"
    found = find_device(client)
    if found == "cpu" and Path("/dev/nvidiactl").exists():
        log.warning(
            "smoke: this machine has an NVIDIA GPU, but the engine cannot give it to a container: "
            "install nvidia-container-toolkit, and see invoke doctor"
        )
    return found


# -- the container ---------------------------------------------------------------------------------


def _fresh_folder(workspace: Workspace, image: Image, kind: Kind) -> Path:
    """Return an empty folder for the evidence; an earlier run's of the same image is dropped."""
    name = image.digest.removeprefix("sha256:")[:12] if image.digest else "unknown"
    folder = workspace.build / "smoke" / f"{name}-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def setup_for(
    client: DockerClient,
    workspace: Workspace,
    options: Options,
    reference: str,
    kind: Kind,
    folder: Path,
) -> Setup:
    """Return how the container is started; `folder` takes what is mounted besides the weights."""
    voices = folder / "voices"
    write_voice(voices)
    environment = {"HIGGS_VOICES_DIR": VOICES}
    mounts = {str(voices): VOICES}
    writable: set[str] = set()
    if kind == "gpu":
        cache = str(Path(options.cache).resolve()) if "/" in options.cache else options.cache
        mounts[cache] = WORKSPACE
        writable.add(cache)
        if token := os.environ.get("HF_TOKEN"):
            environment["HF_TOKEN"] = token
    elif fake_fork.is_image(client.images.get(reference).labels):
        environment |= fake_fork.ENVIRONMENT  # it needs neither device nor weights
    else:
        locked = lockfile.load(workspace.lock_file)
        made = cpu_device.weights(client, workspace, reference, locked)
        mounts |= {
            str(cpu_device.package(workspace)): cpu_device.DEVICE,
            str(made): cpu_device.WEIGHTS,
        }
        environment |= cpu_device.ENVIRONMENT
    return Setup(
        image=reference,
        place=workspace.build,
        environment=environment | dict(options.environment),
        mounts=mounts,
        writable=frozenset(writable),
        gpus=options.gpus if kind == "gpu" else "",
        shm_size=options.shm_size,
        keep=options.keep,
    )


def write_voice(folder: Path) -> None:
    """Write a folder with one voice, as a user of the image would: a WAV file and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    rate = 24_000
    with wave.open(str(folder / "voice.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        for tick in range(3 * rate):
            swell = math.sin(math.pi * (tick / rate * 4 % 1))  # four syllables a second
            pitch = sum(math.sin(2 * math.pi * 150 * n * tick / rate) / n for n in (1, 2, 3))
            out.writeframesraw(struct.pack("<h", int(8_000 * swell * pitch)))
    voice = {"audio_file": "voice.wav", "transcript": "One two three four, and on and on."}
    (folder / "config.json").write_text(json.dumps({OWN_VOICE: voice}))
