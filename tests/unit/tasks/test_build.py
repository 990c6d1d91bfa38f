"""The tasks before the build, on a small fork."""

from __future__ import annotations

import json

import pytest
from invoke.context import Context

from higgs_image.tasks.build import patches, render, source
from higgs_image.tasks.lock import lock
from higgs_image.workspace import Workspace
from tests.unit.conftest import Project


@pytest.fixture
def used(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that the tasks work on."""
    monkeypatch.setattr(Workspace, "default", lambda: project.workspace)
    for name in ("BASE_IMAGE", "EXTRA_CA", "HIGGS_FAKE_FORK"):
        monkeypatch.delenv(name, raising=False)
    return project


def test_render_check_shows_the_difference_and_fails(
    used: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    render(Context(), without=[])
    render(Context(), without=[], check=True)
    assert f"{used.workspace.context} is current" in capsys.readouterr().out
    path = used.workspace.context / "Dockerfile"
    path.write_text(path.read_text().replace("EXPOSE 8000", "EXPOSE 9000"))
    with pytest.raises(SystemExit) as ended:
        render(Context(), without=[], check=True)
    assert ended.value.code == 13
    printed = capsys.readouterr()
    assert "\n-EXPOSE 9000\n+EXPOSE 8000\n" in printed.out
    assert "Dockerfile" in printed.err
    with pytest.raises(SystemExit):
        render(Context(), without=[], check=True, json=True)
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 13
    assert "EXPOSE 9000" in path.read_text(), "written"


def test_source_and_patches_print_json(used: Project, capsys: pytest.CaptureFixture[str]) -> None:
    source(Context(), json=True)
    assert json.loads(capsys.readouterr().out)["fork"] == str(used.workspace.source / "fork")
    patches(Context(), without=[], json=True)
    assert json.loads(capsys.readouterr().out)["patches"] == []
    patches(Context(), without=[], diff=True, json=True)
    assert json.loads(capsys.readouterr().out)["diff"] == ""


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"check": True, "update": "fork"}, "--check and --update"),
        ({"dry_run": True}, "--dry-run needs --update"),
        ({"pull_request": True}, "--pull-request needs --update"),
        ({"update": "forks"}, "unknown entry: forks"),
        ({"update": "python", "min_age": "-1"}, "--min-age"),
    ],
)
def test_flags_of_lock_are_checked_before_anything_is_done(
    used: Project, capsys: pytest.CaptureFixture[str], flags: dict[str, object], named: str
) -> None:
    before = used.text
    with pytest.raises(SystemExit) as ended:
        lock(Context(), **flags)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err
    assert used.text == before
