"""How the container was started: its folders and its shared memory."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
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
    assert "--tmpfs /tmp:exec" in caught.value.hint


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    """A file system as Docker mounts it with --tmpfs."""
    folder = tmp_path / "noexec"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "noexec,size=1m", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_noexec_folder_is_refused(noexec: Path, tmp_path: Path) -> None:
    container.require_executable(tmp_path / "a/b")
    with pytest.raises(SettingError, match="mounted with noexec") as caught:
        container.require_executable(noexec / "a/b")
    assert "--tmpfs /tmp:exec" in caught.value.hint
