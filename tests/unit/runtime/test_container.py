"""How the container was started: its temporary folder and its shared memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from higgs_runtime import container
from higgs_runtime.errors import SettingError


def test_little_shared_memory_is_a_warning(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    container.warn_if_little_shared_memory("/proc")  # a file system without any space
    assert "several GPUs need 1 GB" in capsys.readouterr().out
    container.warn_if_little_shared_memory(str(tmp_path))
    container.warn_if_little_shared_memory("/no/such/folder")
    assert capsys.readouterr().out == ""


def test_missing_temporary_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError

    container.require_temporary_folder()
    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(SettingError, match="/tmp is not writable") as caught:
        container.require_temporary_folder()
    assert "--tmpfs /tmp" in caught.value.hint
