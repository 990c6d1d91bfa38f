"""`./inv demo`: the whole job on embedded defaults, without a registry, GitHub, GPU or account.

The pipeline itself runs: source, wheel and lock of a fake fork (demo/fake_fork.py) go through the
same stages as the real fork. Only the surroundings are made here: a local registry and a base
image. At the end the smoke test lets the pushed digest speak.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from higgs_image import lockfile, ports, process
from higgs_image.build import image as build_image
from higgs_image.build import pipeline
from higgs_image.build.overrides import Overrides
from higgs_image.demo import fake_fork
from higgs_image.demo.result import DemoResult, proved
from higgs_image.errors import DemoError, EngineError, RegistryConflictError, ToolMissingError
from higgs_image.files import write_atomically
from higgs_image.host import base_image, docker_install
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.oci import layout, skopeo
from higgs_image.oci.artifacts import open_repository
from higgs_image.oci.reference import split
from higgs_image.release import publish
from higgs_image.smoke import report as smoke_report
from higgs_image.smoke import session
from higgs_image.smoke.checks import START
from higgs_image.smoke.record import Record
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)

NAME = "higgs-audio-fake-fork"
PORT = 5055
"""Preferred port of the registry: part of the image's name, so it is kept from run to run."""

CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")

START_SECONDS = 60.0
CHECKS = frozenset(("health", "speech-wav", "stop"))
"""Checks of the smoke test that the demonstration runs besides the start."""


def run(
    workspace: Workspace | None = None, folder: Path | None = None, extra_ca: Path | None = None
) -> DemoResult:
    """Set up everything, build and push a fake fork, pull it by digest, and let it speak.

    Args:
        workspace: the project's; the base image is kept in its build folder.
        folder: where the demonstration keeps everything else; `build/demo` by default.
        extra_ca: CA certificates for the build steps; found in the environment by default.

    Raises:
        HiggsError: the first part that failed; the next run goes on from what was finished.
    """
    workspace = workspace or Workspace.default()
    folder = (folder or workspace.build / "demo").resolve()
    place = fake_fork.workspace_in(folder, workspace.root)
    seconds: dict[str, float] = {}
    notes: list[str] = []
    if extra_ca is None and (extra_ca := environment_ca(os.environ)):
        notes.append(f"the build trusts the certificates of {extra_ca}, as the environment says")
    with place.exclusive("demo", timeout=600):
        machine = "1/6 the machine: engine, buildx, skopeo, registry, mmdebstrap"
        with _timed(seconds, "machine", machine):
            notes += _converge(workspace)
        with contextlib.ExitStack() as stack:
            with _timed(seconds, "registry", "2/6 a local registry and a base image"):
                local = stack.enter_context(_registry(place, folder))
            with _timed(seconds, "base"):
                base = _base(workspace, local)
            with _timed(
                seconds, "fake fork", "3/6 the fake fork: git repositories, wheel and lock"
            ):
                fake_fork.make(folder, base, root=workspace.root)
            with _timed(seconds, "pipeline", "4/6 the pipeline: source, render, build, push"):
                request = pipeline.BuildRequest(
                    place, NAME, registry=local.address,
                    overrides=Overrides(extra_ca=extra_ca), load=False,
                )  # fmt: skip
                report = _pipeline(request)
            assert report.pushed is not None  # noqa: S101 (a registry was given)
            reference = report.pushed.by_digest
            with _timed(seconds, "pull", f"5/6 pull {reference}"):
                pull(reference, report)
                _keep_one(place, reference)
            with _timed(seconds, "run", "6/6 start it and let it speak"):
                record, evidence = run_image(place, reference)
        audio = folder / "speech.wav"
        write_atomically(audio, (evidence / audio.name).read_bytes())
        figures = {check.name: check.measured for check in record.checks}
    return DemoResult(
        digest=report.digest,
        reference=reference,
        built=report,
        skipped=report.skipped,
        audio=audio,
        audio_seconds=float(figures["speech-wav"]["audio_s"]),
        health_seconds=float(figures[START]["health_s"]),
        registry=" ".join(local.command),
        notes=notes,
        seconds={name: round(value, 2) for name, value in seconds.items()},
        proved=proved(lockfile.load(place.lock_file), report, figures),
        unproved=[
            "the download of the fork, its packages and the vllm wheel, and an image of 2 GB",
            "the speech server itself: model code, weights, a GPU, and how it sounds",
            "a registry with TLS and a login",
        ],
    )


def environment_ca(environment: Mapping[str, str]) -> Path | None:
    """Return the CA certificates that the environment names for other programs.

    Such a variable is set where the network needs it, as behind a company's proxy.
    """
    for name in CA_VARIABLES:
        path = Path(environment.get(name) or "")
        if environment.get(name) and path.is_file():
            return path.resolve()
    return None


def _converge(workspace: Workspace) -> list[str]:
    """Install what is missing; if that is not possible, try without the registry."""
    try:
        done = docker_install.run(workspace, registry=True)
    except ToolMissingError as missing:
        done = docker_install.run(workspace, registry=False)
        return [missing.message, *done.notes]
    return [*(f"done: {step}" for step in done.done), *done.notes]


def _registry(place: Workspace, folder: Path) -> LocalRegistry:
    """Return the registry on the port of the last run, as long as that is free."""
    port = int(place.read_state("demo").get("port", PORT))
    if not ports.is_free(port):
        log.info("registry: port %d is taken, taking another", port)
        port = ports.free_port()
    place.write_state("demo", place.read_state("demo") | {"port": port})
    return LocalRegistry(folder / "registry", port)


def _base(workspace: Workspace, local: LocalRegistry) -> str:
    try:
        made = base_image.ensure(workspace, fake_fork.PYTHON)
    except ToolMissingError as missing:
        locked = lockfile.load(workspace.lock_file).base.reference
        log.info("base: %s: taking %s", missing.message, locked)
        return locked
    return base_image.publish(made, local.address)


def _pipeline(request: pipeline.BuildRequest) -> pipeline.BuildReport:
    """Run the pipeline; in this local registry, replace an older build of a tag.

    One lock gives another image when Debian has updated a package.
    """
    try:
        return publish.build_and_push(request)
    except RegistryConflictError as conflict:
        reference = pipeline.plan(request).reference
        if reference is None:  # nothing was to be pushed
            raise
        log.info("registry: %s; removing the old one", conflict.message)
        name, tag = split(reference)
        with open_repository(name) as repository:
            repository.delete(repository.find(tag)[0])
        return publish.build_and_push(request)


def pull(reference: str, report: pipeline.BuildReport) -> None:
    """Pull an image by digest, and require that the engine has the one that was built.

    Raises:
        EngineError: it has another one.
        HiggsError: the registry refused it or did not answer.
    """
    done = process.run(["docker", "pull", "--quiet", reference])
    if done.code != 0:
        raise skopeo.explain(done.err, reference)
    image = layout.read(report.layout, report.digest)
    found = build_image.engine_digest(reference)
    if found not in (image.digest, image.config_digest):  # containerd store, classic store
        raise EngineError(
            f"expected {image.digest} as {reference}, the engine has {found}",
            f"docker image rm {reference}, then run again",
        )
    log.info("pull: the engine has %s", image.digest)


def _keep_one(place: Workspace, reference: str) -> None:
    """Remove the image of an earlier demonstration from the engine."""
    state = place.read_state("demo")
    earlier = state.get("reference")
    if earlier and earlier != reference:
        process.run(["docker", "image", "rm", earlier])  # it may be gone or in use
    place.write_state("demo", state | {"reference": reference})


def run_image(place: Workspace, reference: str) -> tuple[Record, Path]:
    """Start an image, let it speak, and end it: the checks of the smoke test that prove it works.

    Args:
        place: the demonstration's workspace.
        reference: the image.

    Returns:
        The record and the folder with the recording.

    Raises:
        DemoError: a check did not pass; the end of the server's log is in the message.
        EngineError: the engine refused to run it.
    """
    options = session.SmokeOptions(reference, "cpu", timeout=START_SECONDS, only=CHECKS)
    record, folder = session.run(place, options)
    failed = [x for x in record.checks if x.name in {START, *CHECKS} and x.verdict != Verdict.PASS]
    if failed:
        log_file = folder / smoke_report.LOG
        lines = log_file.read_text(errors="replace").splitlines() if log_file.is_file() else []
        raise DemoError(
            "\n".join(
                [f"{failed[0].name}: {failed[0].reason}", *(f"    {x}" for x in lines[-20:])]
            ),
            "its log is above; ./inv demo starts it again",
        )
    return record, folder


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str, step: str = "") -> Iterator[None]:
    if step:
        log.info("demo: %s", step)
    started = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = time.monotonic() - started
