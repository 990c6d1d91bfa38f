"""`./inv install-docker`: planned steps and the check of the result."""

from __future__ import annotations

from pathlib import Path

import pytest

from higgs_image.errors import EngineError
from higgs_image.host import docker_install, facts
from higgs_image.workspace import Workspace
from tests.support.machines import BARE, READY, but


def test_dry_run_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a dry run did something")

    monkeypatch.setattr(facts, "probe", lambda: BARE)
    monkeypatch.setattr(docker_install, "_apply", forbidden)
    workspace = Workspace(tmp_path / "build", tmp_path / "x", tmp_path / "y")
    report = docker_install.run(workspace, dry_run=True)
    assert report.text().startswith("would do:\n  write /etc/apt")
    assert report.changed
    assert not (tmp_path / "build").exists()


def test_incomplete_installation_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = iter([BARE, BARE, but(READY, buildx=(0, 8, 0))])
    monkeypatch.setattr(facts, "probe", lambda: next(machines))
    monkeypatch.setattr(docker_install, "_apply", lambda *_: None)
    workspace = Workspace(tmp_path / "build", tmp_path / "x", tmp_path / "y")
    with pytest.raises(
        EngineError,
        match=r"still missing after the installation: buildx 0\.13 or later \(found: 0\.8\.0\)",
    ):
        docker_install.run(workspace)
