"""Starting Docker's daemon."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from higgs_image.errors import EngineError
from higgs_image.host import dockerd

SOCKET = "unix:///run/own-docker.sock"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dockerd, "START_SECONDS", 60.0)
    monkeypatch.setattr(dockerd, "running", lambda: False)
    monkeypatch.setattr(dockerd, "nest_cgroups", lambda: None)


@pytest.mark.usefixtures("quick")
def test_failed_daemon_shows_its_log(
    programs: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dockerd, "answers", lambda: False)
    programs("dockerd", "echo 'failed to start daemon: iptables: no chain' >&2; exit 1")
    started = time.monotonic()
    with pytest.raises(EngineError, match="iptables: no chain") as caught:
        dockerd.start(tmp_path / "logs" / "d.log", SOCKET, systemd=False)
    assert time.monotonic() - started < 20  # it does not wait for what has ended
    assert "iptables-legacy" in caught.value.hint
    assert str(tmp_path / "logs" / "d.log") in caught.value.hint


@pytest.mark.usefixtures("quick")
def test_containerd_that_starts_too_slowly_is_started_again(
    programs: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "started"
    message = "failed to start containerd: timeout waiting for containerd to start"
    programs(
        "dockerd",
        f"if [ -e {mark}.once ]; then touch {mark}; exec sleep 2; fi; "
        f"touch {mark}.once; echo '{message}' >&2; exit 1",
    )
    monkeypatch.setattr(dockerd, "answers", mark.exists)
    dockerd.start(tmp_path / "d.log", SOCKET, systemd=False)
    assert mark.exists()


@pytest.mark.usefixtures("quick")
def test_daemon_runs_in_a_new_session(
    programs: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "pid"
    programs(
        "dockerd",
        f"echo $* > {mark}.args; echo $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 60",
    )
    monkeypatch.setattr(dockerd, "answers", mark.exists)
    dockerd.start(tmp_path / "d.log", SOCKET, systemd=False)
    pid = int(mark.read_text())
    try:
        assert os.getsid(pid) == pid
        assert Path(f"{mark}.args").read_text() == f"--host {SOCKET}\n"
        assert Path(f"/proc/{pid}/cwd").resolve() == Path("/")
    finally:
        os.kill(pid, 9)


@pytest.mark.usefixtures("quick")
def test_starting_daemon_is_not_started_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dockerd, "running", lambda: True)
    monkeypatch.setattr(dockerd, "answers", lambda: True)
    monkeypatch.setattr(dockerd, "spawn", lambda *_: pytest.fail("started twice"))
    dockerd.start(tmp_path / "d.log", SOCKET, systemd=False)


def test_systemd_starts_the_service(
    programs: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dockerd, "answers", lambda: True)
    programs("systemctl", f'echo "$*" >> {tmp_path}/calls')
    dockerd.start(tmp_path / "d.log", SOCKET, systemd=True)
    assert (tmp_path / "calls").read_text() == "enable --now docker\n"
    programs("systemctl", "echo 'Job for docker.service failed' >&2; exit 1")
    programs("journalctl", "echo 'no space left on device'")
    with pytest.raises(EngineError, match="no space left") as caught:
        dockerd.start(tmp_path / "d.log", SOCKET, systemd=True)
    assert "free disk space" in caught.value.hint


def test_running_checks_the_pid_file(tmp_path: Path) -> None:
    pid = tmp_path / "docker.pid"
    assert not dockerd.running(pid)
    pid.write_text(str(os.getpid()))  # the number is in use again, by something else
    assert not dockerd.running(pid)


def test_cgroups_are_nested_inside_containers_only(tmp_path: Path) -> None:
    def group(name: str, *, nested: bool) -> Path:
        root = tmp_path / name
        root.mkdir()
        (root / "cgroup.controllers").write_text("cpu memory\n")
        (root / "cgroup.procs").write_text("1\n7\n")
        (root / "cgroup.subtree_control").write_text("")
        if nested:
            (root / "cgroup.type").write_text("domain\n")
        return root

    own, inner = group("machine", nested=False), group("container", nested=True)
    for root in (own, inner, tmp_path / "version-1"):
        dockerd.nest_cgroups(root)
    assert not (own / "init").exists()
    assert (inner / "init" / "cgroup.procs").read_text() == "7"
    assert (inner / "cgroup.subtree_control").read_text() == "+cpu +memory"
