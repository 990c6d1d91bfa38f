"""Which workspace a task works on."""

from __future__ import annotations

from pathlib import Path

import pytest

from higgs_image.errors import UsageError
from higgs_image.tasks._workspace import current_workspace
from higgs_image.workspace import Workspace


def test_the_real_image_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIGGS_FAKE_FORK", raising=False)
    assert current_workspace() == Workspace.default()


def test_a_variable_names_a_fake_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGS_FAKE_FORK", str(tmp_path))
    with pytest.raises(
        UsageError, match=rf"HIGGS_FAKE_FORK={tmp_path}: there is no versions\.lock"
    ):
        current_workspace()
    (tmp_path / "versions.lock").touch()
    found = current_workspace()
    assert found.lock_file == tmp_path / "versions.lock"
    assert found.build == tmp_path / "build"
