"""POST /generate in the image of the fake fork: started, watched and drained by its entrypoint."""

from __future__ import annotations

import io
import json
import os
import threading
import wave
from collections.abc import Iterator
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path

import pytest

from higgs_image import http, lockfile, retry
from higgs_image.build import image as build_image
from higgs_image.build.overrides import Overrides
from higgs_image.demo import fake_fork
from higgs_image.errors import NetworkError
from higgs_image.files import sha256_file
from higgs_image.ports import free_port
from higgs_image.service import commands as service
from higgs_image.service.commands import ServiceOptions
from higgs_image.workspace import PROJECT, Workspace
from tests.engine.conftest import ForkMaker
from tests.engine.container import Container, MakeContainer, docker

pytestmark = pytest.mark.engine

PORT = 8888
SERVER = "vllm/entrypoints/bosonai/api_server.py"
SITE = "/opt/venv/lib/python3.11/site-packages"
PACKAGES = (
    "aiohappyeyeballs", "aiohttp", "aiosignal", "annotated-types", "anyio", "attrs", "click",
    "fastapi", "frozenlist", "h11", "httptools", "idna", "multidict", "numpy", "prometheus-client",
    "propcache", "pydantic", "pydantic-core", "sentencex", "sniffio", "starlette",
    "typing-extensions", "typing-inspection", "uvicorn", "uvloop", "yarl",
)  # fmt: skip
"""What the service needs of the real image's packages."""

FIND = """
import glob
for path in glob.glob("/proc/[0-9]*/cmdline"):
    if b"higgs_generate" in open(path, "rb").read().split(bytes(1)):
        print(path.split("/")[2])
"""
LONG = "This is a sentence that takes some time to speak aloud, as they do. " * 12


@pytest.fixture(scope="module")
def image(
    tmp_path_factory: pytest.TempPathFactory, base: str, overrides: Overrides, fork_maker: ForkMaker
) -> Iterator[str]:
    """The image of the fake fork with the service's packages, and a server that takes its time."""
    server = (PROJECT / "fakes/upstream/fork" / SERVER).read_text()
    slow = server.replace("CHUNK, PAUSE = 24_000, 0.02", "CHUNK, PAUSE = 24_000, 0.05")
    assert slow != server
    folder = tmp_path_factory.mktemp("generate")
    workspace = fork_maker.make(folder, base, changes={SERVER: slow})
    add_packages(workspace)
    built = build_image.build(workspace, overrides=overrides)
    reference = build_image.load(workspace, built, overrides, "generate-test")
    complete = f"{reference}-patches"
    # The real image's code overlay has the patches' package; the fake fork has no patches.
    made = docker("create", reference)
    docker("cp", f"{PROJECT}/docker/patches/higgs_patches", f"{made}:{SITE}/higgs_patches")
    docker("commit", made, complete)
    docker("rm", made)
    yield complete
    docker("image", "rm", "--force", complete, reference)


def add_packages(workspace: Workspace) -> None:
    """Lock the service's packages, as the real image has them, for the fake fork."""
    known = lockfile.requirements((PROJECT / "docker/requirements/image.txt").read_text())
    path = workspace.lock_file.with_name("requirements.txt")
    before = sha256_file(path)
    path.write_text(path.read_text() + "".join(f"{known[name]}\n" for name in PACKAGES))
    lock = workspace.lock_file.read_text().replace(before, sha256_file(path))
    workspace.lock_file.write_text(lock)
    layers = workspace.layers_file.read_text()
    workspace.layers_file.write_text(layers.replace("budget_mb = 1\n", "budget_mb = 60\n"))


@pytest.fixture
def start(image: str) -> Iterator[MakeContainer]:
    """Return a function that starts a container with the service."""
    made: list[Container] = []
    options = (f"--publish=127.0.0.1::{PORT}", f"--env=HIGGS_GENERATE_PORT={PORT}")

    def make(*more: str) -> Container:
        made.append(Container(image, options=(*options, *more)))
        return made[-1]

    yield make
    for container in made:
        docker("rm", "--force", "--volumes", container.name)


def ready(container: Container) -> None:
    container.wait(lambda: container.ask("/ping", port=PORT)[0] == 200)


def seconds(wav: bytes) -> float:
    with wave.open(io.BytesIO(wav)) as file:
        return float(file.getnframes() / file.getframerate())


def test_both_ports_answer(start: MakeContainer) -> None:
    container = start("--env=HIGGS_API_KEY=secret-key")
    ready(container)
    assert f"ready: http://localhost:{PORT} (POST /generate, and a page)" in container.log
    assert container.ask("/ping")[0] == 200
    value = {"text": "Hello there.", "voice": "beep"}
    assert container.ask("/generate", value, PORT)[0] == 401
    status, wav = container.ask("/generate", value, PORT, "secret-key")
    assert status == 200 and seconds(wav) == pytest.approx(1.2)
    status, page = container.ask("/", port=PORT)
    assert status == 200 and page.startswith(b"<!doctype html>")
    health = json.loads(container.ask("/health", port=PORT)[1])
    assert health["status"] == "ok" and health["model"] == "higgs-audio-v2"


def test_it_is_off_by_default(start: MakeContainer) -> None:
    container = start("--env=HIGGS_GENERATE_PORT=")
    container.ready()
    assert container.run("python3", "-c", FIND) == "" and "/generate" not in container.log


def test_its_death_is_seen_and_it_is_started_again(start: MakeContainer) -> None:
    container = start()
    ready(container)
    first = container.run("python3", "-c", FIND)
    container.run("sh", "-c", f"kill -9 {first}")
    container.wait(lambda: "/generate exited with -9" in container.log)
    ready(container)
    assert container.run("python3", "-c", FIND) not in ("", first)
    assert container.ask("/ping")[0] == 200


def test_container_ends_if_it_cannot_run(start: MakeContainer, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise SystemExit(1)")
    container = start(f"--volume={tmp_path}/app.py:{SITE}/higgs_generate/app.py:ro")
    assert container.status() == 71
    assert "ERROR: /generate exited with 1" in container.log


def test_drain_waits_for_both(start: MakeContainer) -> None:
    """Pieces of a long text are requests of their own, which the server accepts to the end."""
    container = start("--env=HIGGS_GENERATE_PARALLEL=1")
    ready(container)
    value = {"text": LONG, "voice": "beep"}
    whole = container.ask("/generate", value, PORT)[1]
    connection = HTTPConnection("127.0.0.1", container.port(PORT), timeout=60)
    connection.request("POST", "/generate", json.dumps(value))
    answer = connection.getresponse()  # the first piece is being made
    stopping = threading.Thread(target=lambda: docker("stop", "--time", "60", container.name))
    stopping.start()
    container.wait(lambda: container.ask("/ping", port=PORT)[0] == 503)
    assert container.ask("/ping")[0] == 503
    assert container.ask("/generate", value, PORT)[0] == 503
    assert container.speak("Hello")[0] == 503
    assert answer.read() == whole
    stopping.join()
    assert container.status() == 0
    assert "all requests have finished" in container.log


def test_what_is_not_done_in_time_is_cut_off(start: MakeContainer) -> None:
    container = start("--env=HIGGS_DRAIN_SECONDS=1", "--env=HIGGS_GENERATE_PARALLEL=1")
    ready(container)
    connection = HTTPConnection("127.0.0.1", container.port(PORT), timeout=60)
    connection.request("POST", "/generate", json.dumps({"text": 5 * LONG, "voice": "beep"}))
    answer = connection.getresponse()
    docker("stop", "--time", "60", container.name)
    with pytest.raises(IncompleteRead):
        answer.read()
    assert container.status() == 0 and "running requests were cut off" in container.log


def test_invoke_start_publishes_its_port(image: str, tmp_path: Path) -> None:
    port, name = free_port(), f"higgs-generate-test-{os.getpid()}"
    options = ServiceOptions(
        image=image, name=name, port=free_port(), device="cpu",
        variables=(f"HIGGS_GENERATE_PORT={port}",),
    )  # fmt: skip
    try:
        started = service.start(fake_fork.workspace_in(tmp_path), options)
        assert started.page == f"http://127.0.0.1:{port}/"
        assert f"page    {started.page}" in started.text()

        def answers() -> bool:
            try:
                return http.request("GET", started.page).status == 200
            except NetworkError:
                return False

        assert retry.wait_until(answers, 60)
        assert service.status(name) == started
    finally:
        service.stop(name)
