"""A program in a root of its own, without an engine: what it sees, and how it ends."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from higgs_image import process, retry
from higgs_image.errors import EngineError
from higgs_image.smoke import sandbox
from higgs_image.smoke.sandbox import Sandbox
from higgs_image.smoke.unpacked import UnpackedServer
from tests.support import debian

HOST = {x: x for x in ("/usr", "/bin", "/lib", "/lib64", "/etc") if Path(x).is_dir()}
"""Folders of this machine that stand for an image's files."""
SHELL = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

needs_namespaces = pytest.mark.skipif(
    not sandbox.has_namespaces(), reason="this user may not make namespaces"
)


def place(tmp_path: Path, **changes: object) -> Sandbox:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    mounts = {**HOST, **changes.pop("mounts", {})}  # type: ignore[dict-item]
    given = {"environment": SHELL, "mounts": mounts} | changes
    return Sandbox(root, **given)  # type: ignore[arg-type]


def run(tmp_path: Path, script: str, **changes: object) -> subprocess.CompletedProcess[str]:
    command = place(tmp_path, **changes).command(["sh", "-c", script], tmp_path)
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@needs_namespaces
def test_it_has_its_own_files_processes_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of this machine")
    done = run(
        tmp_path,
        "pwd; id -u; echo $A $SECRET.; ls /proc | grep -c '^[0-9]'; echo > /dev/null && ls /dev;"
        "test -e /home || echo no home",
        environment={**SHELL, "A": "b"}, folder="/tmp",
    )  # fmt: skip
    where, user, variables, processes, *rest = done.stdout.splitlines()
    assert (where, user, variables) == ("/tmp", "0", "b ."), done.stderr
    assert int(processes) < 6
    assert "no home" in rest and {"null", "urandom", "shm", "stdin"} <= set(rest)
    assert not {"kvm", "vda", "mem"} & set(rest)


@needs_namespaces
def test_only_what_is_meant_to_be_is_writable(tmp_path: Path) -> None:
    for name in ("read", "write"):
        (tmp_path / name).mkdir()
    mounts = {str(tmp_path / "read"): "/mnt/read", str(tmp_path / "write"): "/mnt/write"}
    done = run(
        tmp_path,
        "for x in / /usr /mnt/read /mnt/write /tmp /root /run /dev/shm; do "
        "touch $x/file 2> /tmp/e && echo $x; done",
        mounts=mounts, writable=frozenset([str(tmp_path / "write")]),
    )  # fmt: skip
    assert done.stdout.split() == ["/mnt/write", "/tmp", "/root", "/run", "/dev/shm"], done.stderr
    assert (tmp_path / "write" / "file").exists()
    left = {x.name for x in (tmp_path / "root").rglob("*")}
    assert "file" not in left, "the image's files are as they were"
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@needs_namespaces
@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("kill -9 $$; sleep 1", 137), ("no-such-program", 127)]
)
def test_the_exit_code_is_the_programs(tmp_path: Path, script: str, code: int) -> None:
    if "kill" in script:  # the first process of a namespace cannot kill itself
        script = f"sh -c '{script.replace('$$', '$PPID')}'; exit 137"
    assert run(tmp_path, script).returncode == code


@needs_namespaces
def test_a_missing_program_is_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        place(tmp_path).command(["no-such-program"], tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 125 and "enter: no-such-program: not found in" in done.stderr


@needs_namespaces
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it_and_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    script = f"trap 'echo ended; exit 3' TERM; sleep {98765 + number} & echo up; wait"
    child = process.start(place(tmp_path).command(["sh", "-c", script], tmp_path), tmp_path / "log")
    assert retry.wait_until(lambda: (tmp_path / "log").read_text() == "up\n", 20)
    time.sleep(0.2)
    child.send_signal(number)
    assert child.wait(20) == (3 if number is signal.SIGTERM else -9)
    assert ("ended" in (tmp_path / "log").read_text()) == (number is signal.SIGTERM)
    sleeping = f"sleep\0{98765 + number}\0".encode()
    assert retry.wait_until(lambda: sleeping not in commands(), 20)


def test_proot_is_used_where_namespaces_are_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "has_namespaces", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="neither namespaces nor has it proot") as refused:
        place(tmp_path).command(["sh"], tmp_path)
    assert "apt-get install proot" in refused.value.hint
    (tmp_path / "proot").write_text("#!/bin/sh\n")
    (tmp_path / "proot").chmod(0o755)
    command = place(tmp_path, folder="/srv").command(["sh", "-c", "x"], tmp_path)
    assert command[0] == str(tmp_path / "proot")
    assert {f"--rootfs={tmp_path}/root", "--cwd=/srv", "--bind=/dev:/dev", "--bind=/usr:/usr",
            f"--bind={tmp_path}/temporary/tmp:/tmp"} <= set(command)  # fmt: skip
    assert command[-6:] == ["/usr/bin/env", "-i", f"PATH={SHELL['PATH']}", "sh", "-c", "x"]


def commands() -> list[bytes]:
    """Return the command line of every process; one that was killed may take a moment to go."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return found


def test_a_program_runs_and_ends_under_proot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian.require_program("proot")
    monkeypatch.setattr(sandbox, "has_namespaces", lambda: False)
    done = run(tmp_path, "pwd; echo $A; touch /tmp/file; exit 7",
               environment={**SHELL, "A": "b"}, folder="/tmp")  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "/tmp\nb\n")
    assert (tmp_path / "temporary" / "tmp" / "file").exists()
    script = "trap 'echo ended; exit 3' TERM; sleep 987653 & echo up; wait"
    child = process.start(place(tmp_path).command(["sh", "-c", script], tmp_path), tmp_path / "log")
    server = UnpackedServer(child, tmp_path / "log", 0)
    assert retry.wait_until(lambda: server.all_logs() == b"up\n", 20)
    server.terminate()
    assert retry.wait_until(lambda: server.all_logs() == b"up\nended\n", 20)
    server.kill()
    assert retry.wait_until(lambda: b"sleep\x00987653\x00" not in commands(), 20)


DRIVER = """
\tlibcuda.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libcuda.so.1
\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libnvidia-ml.so.1
\tlibnvidia-ptxjitcompiler.so.1 (libc6,x86-64) => /opt/driver/libnvidia-ptxjitcompiler.so.1
\tlibcudart.so.12 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.12
\tlibc.so.6 (libc6,x86-64) => /lib/x86_64-linux-gnu/libc.so.6
"""


def test_the_driver_is_found_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "ask", lambda *_: process.Completed(0, DRIVER, ""))
    monkeypatch.setattr(sandbox, "DRIVER_FOLDERS", (str(tmp_path),))
    for name in ("libcuda.so.1", "libnvidia-nvvm.so.4", "libGL.so.1"):
        (tmp_path / name).touch()
    found = {Path(x).name: y for x, y in sandbox.driver_links().items()}
    assert found == {
        "libcuda.so.1": f"{tmp_path}/libcuda.so.1",
        "libcuda.so": f"{tmp_path}/libcuda.so.1",
        "libnvidia-ml.so.1": "/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        "libnvidia-ptxjitcompiler.so.1": "/opt/driver/libnvidia-ptxjitcompiler.so.1",
        "libnvidia-nvvm.so.4": f"{tmp_path}/libnvidia-nvvm.so.4",
    }
    assert {Path(x).parent for x in sandbox.driver_links()} == {Path("/usr/local/nvidia/lib64")}


@needs_namespaces
def test_a_gpu_brings_its_nodes_and_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libcuda.so.535"
    library.write_text("driver")
    monkeypatch.setattr(sandbox, "gpu_nodes", lambda: ["/dev/zero", "/dev/shm"])
    links = {"/usr/local/nvidia/lib64/libcuda.so.1": str(library)}
    monkeypatch.setattr(sandbox, "driver_links", lambda: links)
    root = tmp_path / "image"
    (root / "usr/local").mkdir(parents=True)
    mounts = {x: x for x in HOST if x != "/usr"} | {f"/usr/{x}": f"/usr/{x}" for x in
              ("bin", "lib", "sbin", "lib64") if Path(f"/usr/{x}").is_dir()}  # fmt: skip
    made = Sandbox(root, SHELL, mounts=mounts, gpu=True)
    command = made.command(["cat", "/usr/local/nvidia/lib64/libcuda.so.1"], tmp_path)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "driver", done.stderr
    spec = json.loads((tmp_path / "sandbox.json").read_text())
    assert "/dev/zero" in spec["devices"] and "/usr/local/nvidia" in spec["temporary"]
