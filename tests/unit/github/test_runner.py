"""Making room on a runner: never on a person's machine, and only what nothing here uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from higgs_image.errors import UsageError
from higgs_image.github import runner
from higgs_image.process import Completed


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """Commands that would have been run; one tool of another language is there."""
    (tmp_path / "android").mkdir()
    commands: list[tuple[str, ...]] = []

    def ask(*command: str, timeout: float) -> Completed:
        commands.append(command)
        return Completed(1, "", "no such program")

    monkeypatch.setattr(runner, "HOSTED", (str(tmp_path / "android"), str(tmp_path / "dotnet")))
    monkeypatch.setattr(runner, "ask", ask)
    monkeypatch.delenv("RUNNER_ENVIRONMENT", raising=False)
    return commands


def test_on_a_persons_machine_nothing_is_taken_away(
    asked: list[tuple[str, ...]], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="RUNNER_ENVIRONMENT"):
        runner.free(tmp_path, dry_run=False)
    assert not any("rm" in x for x in runner.free(tmp_path, dry_run=True).steps)
    assert asked == []


def test_on_githubs_runner_what_is_there_for_others_goes(
    asked: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_ENVIRONMENT", "github-hosted")
    done = runner.free(tmp_path, dry_run=False)
    assert asked[0] == ("sudo", "rm", "-rf", str(tmp_path / "android"))
    assert len(asked) == 3 and done.free_gb > 0


def test_on_a_runner_of_ours_only_what_docker_makes_again(
    asked: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_ENVIRONMENT", "self-hosted")
    runner.free(tmp_path, dry_run=False)
    assert [x[0] for x in asked] == ["docker", "docker"]
    assert asked[1][-1] == "label=org.higgs-image.lock-sha256"
