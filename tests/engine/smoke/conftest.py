"""What the tests of the smoke test share: the stand-in as an image, and a run that takes less."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from higgs_image.build import pipeline
from higgs_image.build.overrides import Overrides
from higgs_image.demo import fake_fork
from higgs_image.oci.daemon import engine
from higgs_image.smoke import checks, container, record
from higgs_image.smoke.record import Record
from higgs_image.smoke.session import Options, run
from higgs_image.workspace import Workspace

Smoke = Callable[..., Record]


@pytest.fixture(scope="package")
def client() -> Iterator[DockerClient]:
    with engine() as (found, _):
        yield found


@pytest.fixture(scope="package")
def built(
    tmp_path_factory: pytest.TempPathFactory, base: str, overrides: Overrides
) -> Iterator[tuple[Path, str]]:
    """The stand-in, built and loaded: its folder, and its name in the engine."""
    folder = tmp_path_factory.mktemp("smoke") / "standin"
    workspace = fake_fork.make(folder, base)
    done = pipeline.run(pipeline.BuildRequest(workspace, "smoke-standin", overrides=overrides))
    assert done.engine
    yield folder, done.engine
    subprocess.run(["docker", "image", "rm", "--force", done.engine], capture_output=True)


@pytest.fixture(scope="package")
def image(built: tuple[Path, str]) -> str:
    """Name of the stand-in in the engine."""
    return built[1]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return fake_fork.workspace_in(tmp_path)


@pytest.fixture
def smoke(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Smoke:
    """Return a function that smoke-tests a stand-in in less time."""
    monkeypatch.setattr(checks, "IDLE_SECONDS", 2.0)
    monkeypatch.setattr(checks, "STOP_SECONDS", 8)

    def test(image: str, **options: object) -> Record:
        chosen = {"device": "cpu", "patience": 6.0, "timeout": 60.0} | options
        found, folder = run(workspace, Options(image, **chosen))  # type: ignore[arg-type]
        assert record.load(folder / "record.json") == found
        return found

    return test


def containers(workspace: Workspace) -> list[str]:
    """Ids of all containers of this workspace's smoke tests."""
    found = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--no-trunc",
         "--filter", f"label={container.PLACE}={workspace.build}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return found.stdout.split()


def failed(found: Record) -> set[str]:
    return {check.name for check in found.checks if check.verdict == "fail"}


def evidence(workspace: Workspace) -> Path:
    """The folder of the only run."""
    (folder,) = (workspace.build / "smoke").iterdir()
    return folder
