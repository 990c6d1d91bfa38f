"""`./inv demo`: the whole job on embedded defaults, without a registry, GitHub, GPU or account.

What it runs is the pipeline itself: the stand-in's sources, wheel and lock (higgs_image/standin.py)
go through the same stages as the real fork. Only what surrounds it is made here: a local registry,
a base image, and at the end a container of the pushed digest that is asked to speak.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import os
import time
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgs_image import lockfile, process
from higgs_image.build import image as build_image
from higgs_image.build import pipeline
from higgs_image.build.overrides import Overrides
from higgs_image.demo import fake_fork
from higgs_image.errors import DemoError, EngineError, RegistryConflictError, ToolMissingError
from higgs_image.files import write_atomically
from higgs_image.host import base_image, docker_install, local_registry
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.labels import LABEL
from higgs_image.oci import credentials, layout, skopeo
from higgs_image.release import publish
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

log = logging.getLogger(__name__)

NAME = "higgs-audio-standin"
MARK = LABEL + "demo"
"""Label of the demonstration's containers, by which a later run finds what a killed one left."""
PLACE = LABEL + "demo-folder"
"""Label that tells whose they are."""

PORT = 5055
"""Preferred port of the registry: part of the image's name, so it is kept from run to run."""

CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")

START_SECONDS = 60.0
TEXT = "The image starts, answers, and speaks."


@dataclass(frozen=True)
class Demo:
    """What the demonstration did.

    Attributes:
        digest: built, pushed, pulled and run.
        reference: by which the engine pulled it.
        built: the pipeline's own report.
        skipped: nothing had changed, nothing was built.
        audio: the WAV file that the container answered.
        audio_seconds: its length.
        health_seconds: from the container's start to the first answer.
        registry: how the local registry is started again, with what was pushed.
        notes: what a reader should know about this machine.
        seconds: how long each part took.
        proved: what was seen to work.
        unproved: what only the real fork would show.
    """

    digest: str
    reference: str
    built: pipeline.BuildReport
    skipped: bool
    audio: Path
    audio_seconds: float
    health_seconds: float
    registry: str
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    proved: list[str] = field(default_factory=list)
    unproved: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the result as a person reads it."""
        total = sum(self.seconds.values())
        parts = ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items())
        variables = " ".join(f"-e {name}={value}" for name, value in fake_fork.ENVIRONMENT.items())
        return "\n".join([
            self.built.text(),
            f"audio   {self.audio} ({self.audio_seconds:.2f} s)",
            f"time    {total:.0f} s ({parts})",
            "",
            "proved:",
            *(f"  - {line}" for line in self.proved),
            "only the real fork would prove:",
            *(f"  - {line}" for line in self.unproved),
            *(["notes:", *(f"  - {line}" for line in self.notes)] if self.notes else []),
            "",
            f"start it:      docker run --rm --publish 127.0.0.1:8000:8000 {variables} "
            f"{self.reference}",
            f"its registry:  {self.registry}",
            "the real one:  see README.md, invoke build",
        ])  # fmt: skip


def run(
    workspace: Workspace | None = None, folder: Path | None = None, extra_ca: Path | None = None
) -> Demo:
    """Set up everything, build and push the stand-in, pull it by digest, start it, let it speak.

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
        _step(1, "the machine: engine, buildx, skopeo, registry, mmdebstrap")
        with _timed(seconds, "machine"):
            notes += _converge(workspace)
        _step(2, "a local registry and a base image")
        with contextlib.ExitStack() as stack:
            with _timed(seconds, "registry"):
                local = stack.enter_context(_registry(place, folder))
            with _timed(seconds, "base"):
                base = _base(workspace, local)
            _step(3, "the stand-in: git repositories, wheel and lock")
            with _timed(seconds, "stand-in"):
                fake_fork.make(folder, base, root=workspace.root)
            _step(4, "the pipeline: source, render, build, push")
            with _timed(seconds, "pipeline"):
                report = _pipeline(
                    pipeline.BuildRequest(
                        place,
                        NAME,
                        registry=local.address,
                        overrides=Overrides(extra_ca=extra_ca),
                        load=False,
                    )
                )
            assert report.pushed is not None  # noqa: S101 (a registry was given)
            reference = report.pushed.by_digest
            _step(5, f"pull {reference}")
            with _timed(seconds, "pull"):
                pull(reference, report)
                _keep_one(place, reference)
            _step(6, "start it and let it speak")
            with _timed(seconds, "run"):
                spoken = speak(reference, folder)
        audio = folder / "speech.wav"
        write_atomically(audio, spoken.wav)
    return Demo(
        digest=report.digest,
        reference=reference,
        built=report,
        skipped=report.skipped,
        audio=audio,
        audio_seconds=spoken.wav_seconds,
        health_seconds=spoken.health_seconds,
        registry=" ".join(local.command),
        notes=notes,
        seconds={name: round(value, 2) for name, value in seconds.items()},
        proved=_proved(lockfile.load(place.lock_file), report, spoken),
        unproved=[
            "the download of the fork, its packages and the vllm wheel, and an image of 3 GB",
            "the speech server itself: model code, weights, a GPU, and how it sounds",
            "a registry with TLS and a login",
        ],
    )


def environment_ca(environment: Mapping[str, str]) -> Path | None:
    """Return the CA certificates that the environment names for other programs.

    Whoever sets such a variable does it because the network needs it: a company's proxy, say.
    """
    for name in CA_VARIABLES:
        path = Path(environment.get(name) or "")
        if environment.get(name) and path.is_file():
            return path.resolve()
    return None


def _converge(workspace: Workspace) -> list[str]:
    """Install what is missing; where that is not possible, do with less."""
    try:
        done = docker_install.run(workspace, registry=True)
    except ToolMissingError as missing:
        # An engine may be there, and images for the rest.
        done = docker_install.run(workspace, registry=False)
        return [missing.message, *done.notes]
    return [*(f"done: {step}" for step in done.done), *done.notes]


def _registry(place: Workspace, folder: Path) -> LocalRegistry:
    """Return the registry on the port of the last run, as long as that is free."""
    port = int(place.read_state("demo").get("port", PORT))
    if not local_registry.is_free(port):
        log.info("registry: port %d is taken, taking another", port)
        port = local_registry.free_port()
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
    """Run the pipeline; in this registry, which is ours, an older build of a tag gives way.

    One lock gives another image where Debian has updated a package in between, say.
    """
    try:
        return publish.build_and_push(request)
    except RegistryConflictError as conflict:
        reference = pipeline.plan(request).reference
        assert request.registry and reference  # noqa: S101 (else there is no conflict)
        log.info("registry: %s; taking the old one away", conflict.message)
        with credentials.credentials(request.registry) as auth:
            done = process.run(
                ["skopeo", "delete", *auth.flags(""), f"docker://{reference}"],
                env=auth.env, pass_fds=auth.fds,
            )  # fmt: skip
        if done.code != 0:
            raise skopeo.explain(done.err, reference) from conflict
        return publish.build_and_push(request)


def pull(reference: str, report: pipeline.BuildReport) -> None:
    """Pull an image by digest and make sure that the engine has the very one that was built.

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
            f"the engine has {found} as {reference}, built was {image.digest}",
            f"docker image rm {reference}, then run again",
        )
    log.info("pull: the engine has %s", image.digest)


def _keep_one(place: Workspace, reference: str) -> None:
    """Take the image of an earlier demonstration away from the engine."""
    state = place.read_state("demo")
    earlier = state.get("reference")
    if earlier and earlier != reference:
        process.run(["docker", "image", "rm", earlier])  # it may be gone, or in use: no matter
    place.write_state("demo", state | {"reference": reference})


@dataclass(frozen=True)
class Spoken:
    """What a container answered.

    Attributes:
        health_seconds: from its start until /health was 200.
        wav: the answer to a speech request.
        wav_seconds: the length of that sound.
        version: what /version said.
        stop_seconds: from SIGTERM to its end.
    """

    health_seconds: float
    wav: bytes
    wav_seconds: float
    version: dict[str, str]
    stop_seconds: float


def speak(reference: str, folder: Path) -> Spoken:
    """Start an image on a free loopback port, ask it for speech, and end it.

    Args:
        reference: the image.
        folder: the demonstration's, by which its containers are told from others'.

    Raises:
        DemoError: the container did not do what it should; the message has the end of its log.
        EngineError: the engine refused to run it.
    """
    with _client() as client:
        remove_leftovers(client, folder)
        with _container(client, reference, folder) as container:
            started = time.monotonic()
            port = _wait_healthy(container)
            healthy = time.monotonic() - started
            log.info("run: healthy after %.1f s on 127.0.0.1:%d", healthy, port)
            version = _get(container, port, "/version")
            wav = _post(container, port, "/v1/audio/speech",
                        {"model": "higgs-audio-v2", "voice": "beep", "input": TEXT,
                         "response_format": "wav"})  # fmt: skip
            length = wav_seconds(wav)
            log.info("run: %.2f s of sound", length)
            stopping = time.monotonic()
            container.stop(timeout=10)
            status = container.wait()["StatusCode"]
            if status != 0:
                raise _failed(container, f"ended with status {status} on SIGTERM instead of 0")
            return Spoken(healthy, wav, length, version, time.monotonic() - stopping)


def wav_seconds(data: bytes) -> float:
    """Return the length of a WAV file of speech: mono, 16 bits, 24 kHz, and not silent.

    Raises:
        DemoError: it is none.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            announced = file.getnframes()
            frames = file.readframes(announced)
    except (wave.Error, EOFError) as error:
        raise DemoError(f"the answer is no WAV file: {error}", "see fakes/upstream") from None
    if kind != (1, 2, 24_000) or len(frames) != 2 * announced or not any(frames):
        raise DemoError(
            f"the answer has channels, sample width, rate {kind}, {announced} frames announced and "
            f"{len(frames) // 2} in it; wanted (1, 2, 24000), whole and not silent",
            "see fakes/upstream",
        )
    return float(announced / 24_000)


def remove_leftovers(client: DockerClient, folder: Path) -> list[str]:
    """Remove containers that a killed run of the same demonstration left; return their ids."""
    found = client.containers.list(
        all=True, filters={"label": [f"{MARK}=1", f"{PLACE}={folder}"]}, ignore_removed=True
    )
    for container in found:
        log.info("run: removing %s, left by a run that was killed", container.short_id)
        container.remove(force=True, v=True)
    return [str(container.id) for container in found]


@contextlib.contextmanager
def _client() -> Iterator[DockerClient]:
    """Yield a client of the engine that the docker command uses; its errors become ours."""
    import docker
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        if os.environ.get("DOCKER_HOST"):
            client = docker.from_env()
        else:
            asked = process.run(
                ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
            )
            client = docker.DockerClient(base_url=asked.out.strip() or None)
        with contextlib.closing(client):
            yield client
    except (DockerException, RequestException) as error:
        raise EngineError(
            f"the engine refused: {error}", "see invoke doctor, then run again"
        ) from None


@contextlib.contextmanager
def _container(client: DockerClient, reference: str, folder: Path) -> Iterator[Container]:
    """Start a container and remove it in every case."""
    container = client.containers.create(
        reference,
        labels={MARK: "1", PLACE: str(folder)},
        ports={"8000/tcp": ("127.0.0.1", 0)},
        environment=fake_fork.ENVIRONMENT,
    )
    try:
        container.start()
        yield container
    finally:
        container.remove(force=True, v=True)


def _wait_healthy(container: Container) -> int:
    """Wait until /health is 200 and return the port; a container that ends is not waited for."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        container.reload()
        if container.status not in ("created", "running", "restarting"):
            code = container.attrs["State"]["ExitCode"]
            raise _failed(container, f"ended with status {code} before it was healthy")
        bound = (container.attrs["NetworkSettings"]["Ports"] or {}).get("8000/tcp")
        if bound and _ask(int(bound[0]["HostPort"]), "GET", "/health")[0] == 200:
            return int(bound[0]["HostPort"])
        if time.monotonic() > deadline:
            raise _failed(container, f"was not healthy within {START_SECONDS:.0f} s")
        time.sleep(0.1)


def _get(container: Container, port: int, path: str) -> Any:
    status, _, body = _ask(port, "GET", path)
    if status != 200:
        raise _failed(container, f"answered {path} with {status}")
    return json.loads(body)


def _post(container: Container, port: int, path: str, value: Mapping[str, str]) -> bytes:
    status, kind, body = _ask(port, "POST", path, json.dumps(value).encode())
    if status != 200 or kind != "audio/wav":
        raise _failed(container, f"answered {path} with {status}, {kind}: {body[:200]!r}")
    return body


def _ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
    """Ask once, without any proxy; a refused or broken connection has the status 0."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, "", str(error).encode()
    finally:
        connection.close()


def _failed(container: Container, what: str) -> DemoError:
    tail = container.logs(tail=20).decode(errors="replace").splitlines()
    return DemoError(
        f"the container {what}\n" + "\n".join(f"    {line}" for line in tail),
        "its log is above; ./inv demo starts it again",
    )


def _proved(locked: lockfile.Lock, report: pipeline.BuildReport, spoken: Spoken) -> list[str]:
    version = spoken.version
    return [
        f"git: fork {locked.fork.commit[:7]} and submodule {locked.submodule.commit[:7]} are what "
        f"the lock says, and no kernel changed against {locked.vllm.ref}",
        f"build: {len(report.layers)} layers within their budgets"
        + (", unchanged since the last run" if report.skipped else ""),
        f"wheel {version['version']} with the {version['origin']}'s Python over it, "
        f"packages and submodule, on Python {version['python']}",
        "push: pushed, read back, and pulled by the one digest that was built",
        f"run: healthy after {spoken.health_seconds:.1f} s with the image's own start command, "
        f"{spoken.wav_seconds:.2f} s of valid WAV, and a clean end on SIGTERM in "
        f"{spoken.stop_seconds:.1f} s",
    ]


def _step(number: int, what: str) -> None:
    log.info("demo: %d/6 %s", number, what)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = time.monotonic() - started
