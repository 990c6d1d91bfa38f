"""A whole smoke test: from the name of an image to a record with its evidence."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_image import process
from higgs_image.errors import UsageError
from higgs_image.oci.container_spec import ContainerSpec
from higgs_image.oci.daemon import docker_client
from higgs_image.smoke import cpu_device, record, report, runner
from higgs_image.smoke.checks import NAMES, SmokeCheck
from higgs_image.smoke.checks.model import OWN_VOICE
from higgs_image.smoke.container import ContainerLaunch
from higgs_image.smoke.device import CACHE, choose_device, spec_for
from higgs_image.smoke.image import identify, last_built
from higgs_image.smoke.leftovers import no_leftovers, owner_labels
from higgs_image.smoke.record import DeviceType, Place, Record, SmokeImage
from higgs_image.smoke.sound import syllables, wav
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient

log = logging.getLogger(__name__)

START_SECONDS: dict[DeviceType, float] = {"gpu": 1800.0, "cpu": 300.0}
"""Default time to become healthy; on a GPU the weights may have to be downloaded."""

VOICES = "/mnt/voices"
"""Mount point of the folder with OWN_VOICE."""


@dataclass(frozen=True)
class SmokeOptions:
    """Options of `./inv smoke`.

    Attributes:
        image: name or digest; empty: the image that was built last.
        device: `gpu`, `cpu`, or `auto`: a GPU if the engine has one.
        gpus: ids of GPUs, or `all`.
        timeout: seconds until it has to be healthy; 0: as in START_SECONDS.
        keep: leave the container behind, stopped.
        shm_size: of /dev/shm; empty: the host's IPC namespace on a GPU.
        cache: volume or folder for the real weights.
        only: names of checks; empty: all. The others are not decided.
        answer_timeout: seconds without a byte after which an answer is hanging.
        environment: more variables for the container.
        more: checks of other packages, such as a benchmark: run before the last one.
    """

    image: str = ""
    device: str = "auto"
    gpus: str = "all"
    timeout: float = 0.0
    keep: bool = False
    shm_size: str = ""
    cache: str = CACHE
    only: frozenset[str] = field(default_factory=frozenset)
    answer_timeout: float = 120.0
    environment: Mapping[str, str] = field(default_factory=dict)
    more: tuple[SmokeCheck, ...] = ()

    def require_known_checks(self) -> None:
        """Refuse unknown checks.

        Raises:
            UsageError: one does not exist.
        """
        known = (*NAMES, *(check.name for check in self.more))
        if unknown := sorted(self.only - set(known)):
            raise UsageError(f"unknown check: {', '.join(unknown)}",
                             f"available: {', '.join(known)}")  # fmt: skip


def run(workspace: Workspace, options: SmokeOptions) -> tuple[Record, Path]:
    """Start the image, check it, end it, and write the record and its evidence.

    Returns:
        The record and the folder that holds it.

    Raises:
        UsageError: a check is unknown, or no image was built yet.
        EngineError: no engine, no such image, or the engine refused to start it.
    """
    options.require_known_checks()
    with (
        workspace.exclusive("smoke"),
        process.sigterm_interrupts(),
        docker_client() as client,
        no_leftovers(client, workspace.build),
    ):
        reference = options.image or last_built(workspace)
        image = identify(client, reference)
        device = choose_device(client, options.device)

        def launch(folder: Path) -> runner.Launch:
            spec = tested_spec(client, workspace, options, reference, device, folder)
            return ContainerLaunch(spec, keep=options.keep)

        return run_with(launch, workspace, options, image, device)


def run_with(
    launch: Callable[[Path], runner.Launch],
    workspace: Workspace,
    options: SmokeOptions,
    image: SmokeImage,
    device: DeviceType,
) -> tuple[Record, Path]:
    """Start an image, check it, end it, and write the record and its evidence.

    Args:
        launch: makes what starts it; the folder of the evidence may hold what is mounted.
        workspace: takes the evidence.
        options: of the test.
        image: as the record names it.
        device: that it runs on.
    """
    started, begun = datetime.datetime.now(datetime.UTC), time.monotonic()
    name = image.digest.removeprefix("sha256:")[:12] if image.digest else "unknown"
    folder = workspace.build / "smoke" / f"{name}-{device}"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run of this image
    folder.mkdir(parents=True)
    log.info("smoke: %s on %s", image.reference, device)
    try:
        launched = launch(folder)
    except cpu_device.NoWeightsError as error:
        found = runner.not_started(Verdict.FAIL, error.message, device)
    else:
        timeout = options.timeout or START_SECONDS[device]
        found = runner.observe(launched, device, folder, timeout, options)
    return written(found, image, started, time.monotonic() - begun, folder), folder


def written(
    found: runner.Observation,
    image: SmokeImage,
    started: datetime.datetime,
    seconds: float,
    folder: Path,
    place: Place = "engine",
) -> Record:
    """Write the record and the report of what was observed, and return the record."""
    verdict, reason = record.overall(found.checks, record.required(found.device.kind, place))
    done = Record(
        schema=record.SCHEMA,
        verdict=verdict,
        reason=reason,
        image=image,
        device=found.device,
        started=started.replace(microsecond=0),
        seconds=round(seconds, 1),
        checks=found.checks,
        container=found.container,
        place=place,
    )
    record.save(done, folder / "record.json")
    report.save(done, folder)
    return done


def tested_spec(
    client: DockerClient,
    workspace: Workspace,
    options: SmokeOptions,
    reference: str,
    device: DeviceType,
    folder: Path,
) -> ContainerSpec:
    """Return the container of a test: the one that users start, with a voice and labels added.

    Args:
        client: of the engine, which has the image.
        workspace: of the project.
        options: of the test.
        reference: name of the image.
        device: type of its device.
        folder: takes the files to mount.

    Raises:
        NoWeightsError: this image cannot make weights for the CPU device.
    """
    spec = spec_for(client, workspace, reference, device, gpus=options.gpus, cache=options.cache)
    lifetime = (options.timeout or START_SECONDS[device]) + 2 * runner.CHECKS_SECONDS
    return dataclasses.replace(
        with_voice(spec, options, folder / "voices"),
        shm_size=options.shm_size,
        labels=owner_labels(workspace.build, lifetime=lifetime, keep=options.keep),
    )


def with_voice(spec: ContainerSpec, options: SmokeOptions, folder: Path) -> ContainerSpec:
    """Add OWN_VOICE and the variables of a test.

    The voice is written to a folder as a user of the image would: a WAV file and config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "voice.wav").write_bytes(wav(syllables()))
    voice = {"audio_file": "voice.wav", "transcript": "One two three four, and on and on."}
    (folder / "config.json").write_text(json.dumps({OWN_VOICE: voice}))
    return dataclasses.replace(
        spec,
        environment={**spec.environment, "HIGGS_VOICES_DIR": VOICES, **options.environment},
        mounts={**spec.mounts, str(folder): VOICES},
    )
