"""`./inv free-disk`: what is removed on which machine, with real folders and programs on PATH."""

from __future__ import annotations

from pathlib import Path

import pytest

from higgs_image.errors import UsageError
from higgs_image.github import runner

PRUNED = ["builder prune --force --keep-storage 20GB",
          "image prune --all --force --filter label=org.higgs-image.lock-sha256"]  # fmt: skip


class Machine:
    """A machine with one tool of another language, sudo, and a docker that logs its calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tool, self.log = root / "android", root / "docker.log"
        (self.tool / "sdk").mkdir(parents=True)
        self.program("sudo", 'exec "$@"')
        self.program("docker", f'echo "$*" >> {self.log}')

    def program(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def pruned(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(runner, "HOSTED", (str(made.tool), str(tmp_path / "absent")))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.delenv("RUNNER_ENVIRONMENT", raising=False)
    return made


def test_personal_machine_is_refused(machine: Machine) -> None:
    with pytest.raises(UsageError, match="RUNNER_ENVIRONMENT"):
        runner.free(machine.root, dry_run=False)
    assert machine.tool.exists() and machine.pruned() == []


def test_dry_run_removes_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_ENVIRONMENT", "github-hosted")
    planned = runner.free(machine.root, dry_run=True)
    assert f"sudo rm -rf {machine.tool}" in planned.text()
    assert machine.tool.exists() and machine.pruned() == []


def test_hosted_runner_loses_unused_tools(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_ENVIRONMENT", "github-hosted")
    done = runner.free(machine.root, dry_run=False)
    assert not machine.tool.exists()
    assert machine.pruned() == PRUNED
    assert done.free_gb > 0


def test_own_runner_keeps_its_tools(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_ENVIRONMENT", "self-hosted")
    runner.free(machine.root, dry_run=False)
    assert machine.tool.exists()
    assert machine.pruned() == PRUNED


def test_failing_docker_does_not_stop_the_job(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_ENVIRONMENT", "github-hosted")
    machine.program("docker", "exit 1")
    runner.free(machine.root, dry_run=False)
    assert not machine.tool.exists()
