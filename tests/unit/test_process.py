"""Running other programs: real children, real signals."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from higgs_image import process
from higgs_image.errors import ToolMissingError
from higgs_image.workspace import PROJECT


def wait_for(what: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:  # also when it ends while it is read
        return False
    return state != "Z"


def test_output_and_status() -> None:
    done = process.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert done == process.Completed(3, "out\n", "err\n")


def test_bytes_arrive_as_they_are() -> None:
    """Line ends are kept (a manifest's digest is computed from them); other bytes do no harm."""
    done = process.run(["printf", r"a\r\nb\rc\n\303\244\377"])
    assert done.out == "a\r\nb\rc\nä�"


def test_lines_arrive_as_they_come(tmp_path: Path) -> None:
    """The child goes on only after we saw its first line."""
    go = tmp_path / "go"
    script = f"echo one; while ! [ -e {go} ]; do sleep 0.01; done; echo two >&2; printf three"
    seen: list[str] = []

    def on_line(line: str) -> None:
        seen.append(line)
        go.touch()

    done = process.run(["sh", "-c", script], on_line=on_line)
    assert seen == ["one", "two", "three"]
    assert done == process.Completed(0, "", "one\ntwo\nthree")


@pytest.mark.parametrize("follow", [False, True])
def test_much_output_on_both_streams_does_not_block(follow: bool) -> None:
    script = "import sys\nfor i in range(40000): print('x' * 50); print('y' * 50, file=sys.stderr)"
    lines: list[str] = []
    done = process.run([sys.executable, "-c", script], on_line=lines.append if follow else None)
    assert done.code == 0
    if follow:
        assert len(lines) == 80000
    else:
        assert len(done.out) == len(done.err) == 40000 * 51


def test_environment_and_file_descriptors_are_handed_over() -> None:
    read, write = os.pipe()
    os.write(write, b"secret\n")
    os.close(write)
    done = process.run(
        ["sh", "-c", f"cat /proc/self/fd/{read}; echo $ADDED$HOME"],
        env={"ADDED": "added "},
        pass_fds=[read],
    )
    os.close(read)
    assert done.out == f"secret\nadded {os.environ['HOME']}\n"


def test_other_file_descriptors_and_input_stay_here() -> None:
    read, write = os.pipe()
    os.set_inheritable(read, True)
    os.write(write, b"input\n")
    os.close(write)
    own = os.dup(0)
    os.dup2(read, 0)
    try:
        done = process.run(["sh", "-c", f"ls /proc/self/fd/{read}; cat; echo end"])
    finally:
        os.dup2(own, 0)
        os.close(own)
        os.close(read)
    assert done.out == "end\n"


@pytest.mark.parametrize(
    "script",
    [
        "echo partial; exec sleep 60",
        "sleep 60 & echo partial; wait",
        "trap '' TERM; echo partial; sleep 60 & wait; wait",
    ],
)
def test_timeout(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the child has children that keep its output open, and when it ignores the end."""
    monkeypatch.setattr(process, "GRACE", 0.2)
    began = time.monotonic()
    done = process.run(["sh", "-c", script], timeout=1.0)
    assert time.monotonic() - began < 20
    assert done == process.Completed(124, "partial\n", "timed out after 1 s")


def test_missing_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/no-such-place")
    with pytest.raises(ToolMissingError, match="skopeo is not installed") as caught:
        process.run(["skopeo", "--version"])
    assert "./inv install-docker" in caught.value.hint
    assert caught.value.exit_code == 21
    with pytest.raises(ToolMissingError) as caught:
        process.run(["no-such-program"])
    assert caught.value.hint == "install no-such-program"


def test_programs_of_the_own_environment_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / Path(sys.executable).name
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(process.find(other.name)).parent == Path(sys.executable).parent


def test_arguments_are_no_shell_text() -> None:
    text = "$HOME; `id` 'x' \"y\" \n *"
    assert process.run(["printf", "%s", text]).out == text


def test_our_own_error_ends_the_child(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def fail(_: str) -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        process.run(["sh", "-c", f"echo $$ > {pid}; echo line; exec sleep 60"], on_line=fail)
    assert not alive(int(pid.read_text()))


PARENT = """
    import sys
    from pathlib import Path
    from higgs_image import process
    follow = print if sys.argv[1] == "follow" else None
    try:
        process.run(["sh", "-c", "echo $$ > $0.new; mv $0.new $0; exec sleep 60", sys.argv[2]],
                    on_line=follow)
    except KeyboardInterrupt:
        gone = not Path("/proc", Path(sys.argv[2]).read_text().strip()).exists()
        sys.exit(130 if gone else 1)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Callable[[str], tuple[subprocess.Popen[bytes], int]]:
    """Return a function that starts a process which runs `sleep`; gives it and sleep's id."""

    def start(how: str) -> tuple[subprocess.Popen[bytes], int]:
        pid = tmp_path / "pid"
        started = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PARENT), how, str(pid)],
            cwd=PROJECT,
            start_new_session=True,
        )
        wait_for(pid.exists)
        time.sleep(0.2)  # so that it is past Popen and waits
        assert alive(int(pid.read_text()))
        return started, int(pid.read_text())

    return start


@pytest.mark.parametrize("how", ["follow", "collect"])
def test_ctrl_c_ends_the_child(
    parent: Callable[[str], tuple[subprocess.Popen[bytes], int]], how: str
) -> None:
    """Only the parent gets the signal, as from `kill -INT`; a terminal sends it to both."""
    started, pid = parent(how)
    started.send_signal(signal.SIGINT)
    assert started.wait(10) == 130
    assert not alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
@pytest.mark.parametrize("how", ["follow", "collect"])
def test_kill_9_ends_the_child_too(
    parent: Callable[[str], tuple[subprocess.Popen[bytes], int]], how: str
) -> None:
    started, pid = parent(how)
    started.kill()
    started.wait(10)
    wait_for(lambda: not alive(pid))


def test_started_program_ends_with_us(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = (
        "import os, sys, time; from pathlib import Path; from higgs_image import process\n"
        "child = process.start(['sh', '-c', 'echo running; exec sleep 60'], Path(sys.argv[2]))\n"
        "Path(sys.argv[1]).write_text(str(child.pid)); os.kill(os.getpid(), 9)"
    )
    log = tmp_path / "logs" / "x.log"
    subprocess.run([sys.executable, "-c", script, pid, log], cwd=PROJECT)
    wait_for(lambda: not alive(int(pid.read_text())))


def test_commands_are_logged_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    process.run(["true", "argument"])
    assert "true argument" in caplog.text


def test_ask_returns_127_for_a_missing_program() -> None:
    assert process.ask("no-such-program-at-all").code == 127
