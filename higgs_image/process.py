"""Run programs and start them beside us, and tell whether one still runs."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from higgs_image.errors import ToolMissingError

log = logging.getLogger(__name__)

GRACE = 15.0
"""Seconds that a program has to end by itself before it is killed."""

_INSTALL = {
    "docker": "install Docker Engine 23 or later; on Debian as root: ./inv install-docker",
    "skopeo": "install skopeo 1.9.3 or later; on Debian as root: ./inv install-docker",
    "cosign": "install cosign 2; on Debian as root: ./inv install-docker --signing",
    "docker-registry": "on Debian as root: ./inv install-docker --registry",
    "mmdebstrap": "on Debian as root: ./inv install-docker --registry",
    "hadolint": "it comes with the project's requirements: remove .venv and run ./inv again",
    "git": "install git; on Debian as root: apt-get install git",
    "uv": "it comes with the project's requirements: remove .venv and run ./inv again",
}


@dataclass(frozen=True)
class Completed:
    """What a program left behind.

    Attributes:
        code: its exit status.
        out: its standard output.
        err: its standard error (when lines were followed: of both streams together).
    """

    code: int
    out: str
    err: str


def find(program: str) -> str:
    """Return the path of a program, the project's own environment first.

    Raises:
        ToolMissingError: it is not installed; the hint says how to get it.
    """
    own = os.path.dirname(sys.executable)  # noqa: PTH120 (a search path is a string)
    path = os.pathsep.join([own, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(program, path=path)
    if not found:
        raise ToolMissingError(
            f"{program} is not installed (not found on PATH)",
            _INSTALL.get(program, f"install {program}"),
        )
    return found


def run(
    command: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    pass_fds: Sequence[int] = (),
    timeout: float | None = None,
) -> Completed:
    """Run a program to its end; its exit status is the caller's to judge.

    Args:
        command: program and arguments.
        env: variables added to the environment.
        on_line: receives each line of output as it comes; else the output is collected.
        pass_fds: file descriptors that the program inherits.
        timeout: seconds, after which the program is ended (status 124, as timeout(1) has it);
            only where the output is collected.

    Raises:
        ToolMissingError: the program is not installed.
    """
    command = [find(command[0]), *command[1:]]
    log.debug("run: %s", " ".join(command))
    with subprocess.Popen(
        command,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if on_line else subprocess.PIPE,
        pass_fds=pass_fds,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    ) as child:
        try:
            if on_line:
                out, err = "", _follow(child.stdout, on_line)
                code = child.wait()
            else:
                out, err = (_text(x) for x in child.communicate(timeout=timeout))
                code = child.returncode
        except subprocess.TimeoutExpired as expired:  # its own children may hold the pipes on
            end(child)
            late = f"timed out after {expired.timeout:g} s"
            code, out, err = 124, _text(expired.output), f"{_text(expired.stderr)}\n{late}".strip()
        except BaseException:
            end(child)  # Ctrl-C or an error of ours: end the child before we go
            raise
    return Completed(code, out, err)


def ask(
    *command: str,
    timeout: float = 10,
    env: dict[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a program; one that is not installed is status 127, not an error."""
    try:
        return run(command, timeout=timeout, env=env, pass_fds=pass_fds)
    except ToolMissingError as error:
        return Completed(127, "", error.message)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM, which CI systems send, end the run as Ctrl-C does, with its cleanup."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # only the main thread gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def started_at(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; empty if it has ended.

    A zombie has ended. Together with the id it names one process, as ids are used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def is_alive(pid: int, started: str) -> bool:
    """Tell whether the process that had this id at this start time still runs."""
    return bool(started) and started_at(pid) == started


def _text(data: bytes | None) -> str:
    """Decode output without touching its line ends: a digest may be computed from it."""
    return (data or b"").decode(errors="replace")


def end(child: subprocess.Popen[bytes]) -> None:
    """End a program, and kill it if it does not end by itself."""
    child.terminate()
    try:
        child.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def start(command: Sequence[str], log_file: Path) -> subprocess.Popen[bytes]:
    """Start a program that runs beside us and ends when we end, also when we are killed.

    Args:
        command: program and arguments.
        log_file: receives its output.

    Raises:
        ToolMissingError: the program is not installed.
    """
    command = [find(command[0]), *command[1:]]
    log.debug("start: %s", " ".join(command))
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is ours to handle: we end it when we are done
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )


def _follow(stream: IO[bytes] | None, on_line: Callable[[str], None]) -> str:
    assert stream is not None  # noqa: S101 (stdout=PIPE above)
    lines: list[str] = []
    for raw in io.TextIOWrapper(stream, encoding="utf-8", errors="replace"):
        line = raw.rstrip("\n")
        lines.append(line)
        on_line(line)
    return "\n".join(lines)


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """In the child: end when the parent ends, even if that is killed (prctl(2))."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
