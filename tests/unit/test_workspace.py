"""The workspace: one writer at a time, and nothing half written, also after kill -9."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from higgs_image.errors import BusyError, DiskFullError
from higgs_image.files import replace_folder, write_atomically
from higgs_image.workspace import PROJECT, Workspace
from tests.unit.conftest import write


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "build", tmp_path / "versions.lock", tmp_path / "layers.toml")


HOLD = """
import sys, time
from pathlib import Path
from higgs_image.workspace import Workspace
with Workspace(Path(sys.argv[1]), Path(), Path()).exclusive("source"):
    print("held", flush=True)
    time.sleep(30)
"""


@pytest.fixture
def holder(workspace: Workspace) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the workspace."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, workspace.build],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_busy_workspace_is_an_error_after_the_timeout(
    workspace: Workspace, holder: subprocess.Popen[str]
) -> None:
    began = time.monotonic()
    with (
        pytest.raises(BusyError, match="another run has been busy with source for 0 s") as caught,
        workspace.exclusive("source", timeout=0.2),
    ):
        pytest.fail("entered")
    assert 0.1 < time.monotonic() - began < 20
    assert caught.value.exit_code == 23
    assert caught.value.transient
    assert str(workspace.build) in caught.value.message


def test_parts_are_independent(workspace: Workspace, holder: subprocess.Popen[str]) -> None:
    with workspace.exclusive("context", timeout=0.1):
        pass


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_lock_ends_with_its_holder(
    workspace: Workspace, holder: subprocess.Popen[str], sign: signal.Signals
) -> None:
    threading.Timer(0.2, holder.send_signal, [sign]).start()
    with workspace.exclusive("source", timeout=10):
        assert holder.wait(5) == -sign
    with workspace.exclusive("source", timeout=0):
        pass  # and nothing is left that would hinder the next


def test_lock_is_released_by_an_error(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="x"), workspace.exclusive("source"):
        raise ValueError("x")
    with workspace.exclusive("source", timeout=0):
        pass


# --- state


def test_state(workspace: Workspace) -> None:
    assert workspace.read_state("build") == {}
    workspace.write_state("build", {"key": "ü", "n": 1})
    assert workspace.read_state("build") == {"key": "ü", "n": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe{}", b"3"])
def test_damaged_state_counts_as_none(workspace: Workspace, content: bytes) -> None:
    workspace.write_state("build", {"key": "x"})
    (workspace.build / "state/build.json").write_bytes(content)
    assert workspace.read_state("build") == {}


def test_a_write_is_complete_or_does_not_happen(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    write_atomically(path, b"old")
    before = path.stat().st_ino
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != before, "written in place"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_failed_write_keeps_the_old_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x" / "file"
    write_atomically(path, b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


# --- folders


def new_folder(tmp_path: Path) -> Path:
    new = tmp_path / ".new"
    write(new, {"a": "new", "b/c": "new"})
    return new


@pytest.mark.parametrize("before", ["nothing", "folder", "file", "link", "dangling link"])
@pytest.mark.parametrize("leftover", ["nothing", "folder", "file", "link"])
def test_replace_folder(tmp_path: Path, before: str, leftover: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, {"keep": "me"})
    goal, old = tmp_path / "goal", tmp_path / ".goal.old"
    for kind, path in ((before, goal), (leftover, old)):
        if kind == "folder":
            write(path, {"a": "old", "gone/x": "old"})
        elif kind == "file":
            path.write_text("old")
        elif kind == "link":
            path.symlink_to(elsewhere)
        elif kind == "dangling link":
            path.symlink_to("/no-such-place")
    replace_folder(new_folder(tmp_path), goal)
    assert not goal.is_symlink()
    assert sorted(p.relative_to(goal).as_posix() for p in goal.rglob("*")) == ["a", "b", "b/c"]
    assert (elsewhere / "keep").read_text() == "me", "a link was followed"
    names = {p.name for p in tmp_path.iterdir()} - {"home"}
    assert names == {"elsewhere", "goal"}


def test_require_disk(workspace: Workspace) -> None:
    workspace.require_disk(workspace.build / "not" / "yet", 0.001, "a test")
    with pytest.raises(DiskFullError, match=r"a test needs 1000000\.0 GB free") as caught:
        workspace.require_disk(workspace.build / "not" / "yet", 1e6, "a test")
    assert caught.value.exit_code == 22


def test_default_paths() -> None:
    default = Workspace.default()
    assert default.lock_file == PROJECT / "versions.lock"
    assert default.source == PROJECT / "build/source"
    assert default.context == PROJECT / "build/context"
    assert default.layout("zstd") == PROJECT / "build/oci-zstd"
    assert os.access(PROJECT / "inv", os.X_OK)


# --- temporary folders

KILLED = """
import os, sys
from pathlib import Path
from higgs_image.workspace import Workspace
with Workspace(Path(sys.argv[1]), Path(), Path()).scratch("verify") as folder:
    (folder / "large").write_text("x")
    os.kill(os.getpid(), 9)
"""


def test_a_temporary_folder_is_removed_also_after_an_error(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="x"), workspace.scratch("verify") as folder:
        assert list(folder.iterdir()) == []
        assert folder.is_relative_to(workspace.build)
        raise ValueError("x")
    assert list((workspace.build / "tmp").iterdir()) == []


def test_folders_of_killed_runs_are_removed_and_those_of_running_ones_kept(
    workspace: Workspace,
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, workspace.build], cwd=PROJECT)
    assert len(list((workspace.build / "tmp").iterdir())) == 1
    with workspace.scratch("first") as first, workspace.scratch("second") as second:
        assert first.is_dir()
        assert sorted((workspace.build / "tmp").iterdir()) == [first, second]


SCRATCH = """
import sys, time
from pathlib import Path
from higgs_image.workspace import Workspace
with Workspace(Path(sys.argv[1]), Path(), Path()).scratch("verify") as folder:
    (folder / "layer").write_bytes(bytes(1000))
    print(folder, flush=True)
    time.sleep(60)
"""


def test_scratch_of_a_killed_run_is_removed_by_the_next(workspace: Workspace) -> None:
    def start() -> tuple[subprocess.Popen[str], Path]:
        child = subprocess.Popen(
            [sys.executable, "-c", SCRATCH, str(workspace.build)],
            stdout=subprocess.PIPE, text=True, cwd=PROJECT,
        )  # fmt: skip
        assert child.stdout
        return child, Path(child.stdout.readline().strip())

    (dead, left), (alive, used) = start(), start()
    try:
        dead.kill()
        dead.wait()
        assert (left / "layer").is_file(), "nobody has removed it yet"
        with workspace.scratch("verify") as folder:
            assert folder.is_dir() and folder.is_relative_to(workspace.build)
            assert not left.exists() and (used / "layer").is_file()
        assert not folder.exists()
    finally:
        alive.kill()
        alive.wait()


def test_scratch_is_removed_after_an_error(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="x"), workspace.scratch("verify") as folder:
        raise ValueError("x")
    assert not folder.exists()
