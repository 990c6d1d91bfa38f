"""Programs in Python that start as copies of a process which has imported their libraries.

The imports take half a second of processor time, more than most tests of such a program. A copy is
a process of its own, with its own arguments, environment, streams, signals and exit status.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import reduction
from pathlib import Path
from typing import Any

LIBRARIES = (
    __name__,
    *("higgs_image.bench.load", "higgs_image.bench.measured"),  # of higgs_image.bench.worker
    "higgs_image.cloud.pod.smoke",  # of tests.support.runpod.rent
    *("pip_audit._cli", "pip_audit._service.osv"),
)
"""What the programs import."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*LIBRARIES])


class _Stream:
    """A file descriptor for the copy."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self.number),)


def _received(duplicate: Any) -> int:
    return int(duplicate.detach())


def _run(command: list[str], streams: list[int], folder: str, environment: dict[str, str]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))  # multiprocessing has closed it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if command[1] == "-m":
        sys.argv = command[2:]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


class WarmPopen(subprocess.Popen[Any]):
    """Starts `python -m MODULE ...`, or a script of our environment, as such a copy."""

    _close_pipe_fds: Callable[..., None]
    _waitpid_lock: threading.Lock

    def _execute_child(
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any,
        env: Any, startupinfo: Any, creationflags: Any, shell: Any, *pipes: int,
    ) -> None:  # fmt: skip
        streams = pipes[0], pipes[3], pipes[5]
        variables = os.environ if env is None else env
        self._process = _context.Process(
            target=_run,
            args=(
                [os.fspath(x) for x in args],
                [_Stream(n if x == -1 else x) for n, x in enumerate(streams)],
                os.fspath(cwd or Path.cwd()),
                {os.fspath(k): os.fspath(v) for k, v in variables.items()},
            ),
            daemon=True,
        )
        self._process.start()
        self.pid = self._process.pid or 0
        self._child_created = True
        self._close_pipe_fds(*pipes[:6])

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):
            try:
                self.returncode = self._process.exitcode
            finally:
                self._waitpid_lock.release()
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if not flags & os.WNOHANG:
            self._process.join()
        code = self._process.exitcode
        return (0, 0) if code is None else (self.pid, -code if code < 0 else code << 8)
