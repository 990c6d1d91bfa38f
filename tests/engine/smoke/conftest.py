"""Fixtures of the smoke test: an image of the fake fork, and a short run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from higgs_image.build import pipeline
from higgs_image.build.overrides import Overrides
from higgs_image.demo import fake_fork
from higgs_image.oci.daemon import docker_client
from higgs_image.smoke import leftovers, record
from higgs_image.smoke.checks import lifecycle, load
from higgs_image.smoke.record import Record
from higgs_image.smoke.session import SmokeOptions, run
from higgs_image.workspace import Workspace
from tests.engine.conftest import ForkMaker

Smoke = Callable[..., Record]


@pytest.fixture(scope="package")
def client() -> Iterator[DockerClient]:
    with docker_client() as found:
        yield found


@pytest.fixture(scope="package")
def built(
    tmp_path_factory: pytest.TempPathFactory, base: str, overrides: Overrides, fork_maker: ForkMaker
) -> Iterator[tuple[Path, str]]:
    """The fake fork, built and loaded: its folder, and its name in the engine."""
    folder = tmp_path_factory.mktemp("smoke") / "fake-fork"
    workspace = fork_maker.make(folder, base)
    done = pipeline.run(pipeline.BuildRequest(workspace, "smoke-fake-fork", overrides=overrides))
    assert done.engine
    yield folder, done.engine
    subprocess.run(["docker", "image", "rm", "--force", done.engine], capture_output=True)


@pytest.fixture(scope="package")
def image(built: tuple[Path, str]) -> str:
    """Name of the image in the engine."""
    return built[1]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return fake_fork.workspace_in(tmp_path)


@pytest.fixture
def smoke(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Smoke:
    """Return a function that runs a short smoke test of an image."""
    monkeypatch.setattr(load, "IDLE_SECONDS", 2.0)
    monkeypatch.setattr(lifecycle, "STOP_SECONDS", 8)

    def test(image: str, **options: object) -> Record:
        chosen = {"device": "cpu", "answer_timeout": 6.0, "timeout": 60.0} | options
        found, folder = run(workspace, SmokeOptions(image, **chosen))  # type: ignore[arg-type]
        assert record.load(folder / "record.json") == found
        return found

    return test


def containers(workspace: Workspace) -> list[str]:
    """Ids of all containers of this workspace's smoke tests."""
    found = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--no-trunc",
         "--filter", f"label={leftovers.FOLDER}={workspace.build}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return found.stdout.split()


def failed(found: Record) -> set[str]:
    return {check.name for check in found.checks if check.verdict == "fail"}


def evidence(workspace: Workspace) -> Path:
    """The folder of the only run."""
    (folder,) = (workspace.build / "smoke").iterdir()
    return folder
