"""The server as a child process: started, waited for until it is ready, drained, and ended.

One loop in the main thread waits for three things: a signal, a word from the server's middleware
(`gate`), and the end of the server. The server has a process group of its own, so that a signal to
the container's group does not reach it before its last requests are done.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from higgs_runtime import control, front, log
from higgs_runtime.errors import SERVER_ENDED
from higgs_runtime.front import State

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that ask the container to end; the last comes from a terminal that was closed."""
END_SECONDS = 10.0
"""Time for the server to end after its last request."""
CUT_SECONDS = 1.0
"""The same where requests are cut off: it would wait for their connections."""
POLL_SECONDS = 0.02


class Server:
    """The server's process and the socket to its middleware.

    Args:
        state: what clients are told.
        drain_seconds: time for running requests once a signal has come.
    """

    def __init__(self, state: State, drain_seconds: float) -> None:
        self._state = state
        self._drain_seconds = drain_seconds
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._signals, self._wakeup = os.pipe()
        for end in (self._signals, self._wakeup):
            os.set_blocking(end, False)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._said = b""

    @property
    def control(self) -> int:
        """Number of the socket that the server inherits."""
        return self._theirs.fileno()

    def run(
        self,
        command: list[str],
        environment: Mapping[str, str],
        listening: Callable[[], bool],
        ready: Callable[[], None],
    ) -> int:
        """Start the server and stay until it has ended.

        Args:
            command: its command line.
            environment: its variables.
            listening: whether it answers on its port; asked once it says that it is ready.
            ready: called once, when it does.

        Returns:
            The container's exit code: 0 after a signal, else the server's, never 0 then.
        """
        self._take_signals()
        self._process = subprocess.Popen(
            command, env=dict(environment), pass_fds=[self.control], start_new_session=True
        )
        self._theirs.close()
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_READ)
            selector.register(self._signals, selectors.EVENT_READ)
            opening = False
            while self._process.poll() is None:
                for key, _ in selector.select(POLL_SECONDS if opening else None):
                    if key.fileobj is self._ours:
                        opening = self._hear(selector) or opening
                    elif self._signalled():
                        return self._stop()
                if opening and listening():
                    opening = False
                    ready()
                    self._state.phase = front.READY
        return self._ended(self._process.returncode)

    def _take_signals(self) -> None:
        def noted(number: int, frame: object) -> None:  # its number is in the pipe by now
            del number, frame

        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for number in (*ENDING, signal.SIGCHLD):
            signal.signal(number, noted)

    def _signalled(self) -> bool:
        """Return whether a signal asks the container to end."""
        numbers = b""
        with suppress(BlockingIOError):
            numbers = os.read(self._signals, 64)
        return any(number in numbers for number in ENDING)

    def _hear(self, selector: selectors.BaseSelector) -> bool:
        """Return whether the middleware says that it is ready."""
        try:
            piece = self._ours.recv(64)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        if not piece:
            selector.unregister(self._ours)
        self._said += piece
        return control.READY in self._said

    def _stop(self) -> int:
        """End the server because a signal asked for it."""
        assert self._process is not None  # noqa: S101 (it was started)
        if self._state.phase != front.READY:
            log.info("stopped while it was starting")
            self._kill()
            return 0
        self._state.phase = front.DRAINING
        log.info(f"stopping: no new requests, up to {self._drain_seconds:.0f} s for running ones")
        started = time.monotonic()
        drained, outcome = self._drain(started + self._drain_seconds)
        patience = END_SECONDS if drained else CUT_SECONDS
        log.info(f"stopping: {outcome} after {time.monotonic() - started:.1f} s")
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            log.warning(f"the server did not end within {patience:.0f} s and was killed")
        self._kill()
        return 0

    def _drain(self, deadline: float) -> tuple[bool, str]:
        """Wait until no request is running; return whether that is so, and why the wait is over."""
        assert self._process is not None  # noqa: S101 (it was started)
        self._said = b""
        with suppress(OSError):
            self._ours.send(control.DRAIN)
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_READ)
            selector.register(self._signals, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if self._process.poll() is not None:
                    return True, "the server ended"
                for key, _ in selector.select(left):
                    if key.fileobj is self._signals and self._signalled():
                        return False, "cut short by a second signal"
                    if key.fileobj is self._ours:
                        self._hear(selector)
                if control.DRAINED in self._said:
                    return True, "no request is running"
        return False, "requests that were still running are cut off"

    def _ended(self, code: int) -> int:
        """Return the container's exit code for a server that ended by itself."""
        during = "" if self._state.phase == front.READY else " while it was starting"
        self._kill()
        if code < 0:
            log.error(
                f"the server was killed by signal {-code} ({signal.Signals(-code).name}){during}",
                "see the lines above; without any, the host's memory was probably too small",
            )
            return 128 - code
        log.error(f"the server ended with {code}{during}", "see the lines above")
        return code or SERVER_ENDED

    def _kill(self) -> None:
        """End what is left of the server: itself, its engine, and their children."""
        assert self._process is not None  # noqa: S101 (it was started)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
