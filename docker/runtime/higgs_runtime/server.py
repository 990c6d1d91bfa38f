"""The server as a child process: started, waited for until it is ready, drained, and stopped.

One loop in the main thread waits for three events: a signal, a message from the middleware inside
the server (`readiness`), and the server's exit. The server has its own process group, so that a
signal to the container's group does not reach it before its last requests are done.
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

from higgs_runtime import control, log
from higgs_runtime.errors import GENERATE_ENDED, SERVER_ENDED
from higgs_runtime.generate import GenerateProcess
from higgs_runtime.state import Phase, ServerState

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that stop the container; SIGHUP comes from a terminal that was closed."""
END_SECONDS = 10.0
"""Time for the server to exit after its last request."""
CUT_SECONDS = 1.0
"""The same if requests are cut off: the server would wait for their connections."""
POLL_SECONDS = 0.02


class ServerProcess:
    """The server's process and the socket to its middleware.

    Args:
        state: the state that clients are told.
        drain_seconds: time for running requests after a signal.
        companion: the service of /generate, if it is on: watched and drained with the server.
    """

    def __init__(
        self, state: ServerState, drain_seconds: float, companion: GenerateProcess | None = None
    ) -> None:
        self._companion = companion
        self._state = state
        self._drain_seconds = drain_seconds
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._signals, self._wakeup = os.pipe()
        for end in (self._signals, self._wakeup):
            os.set_blocking(end, False)
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""

    @property
    def control(self) -> int:
        """File descriptor of the socket that the server inherits."""
        return self._theirs.fileno()

    def run(
        self,
        command: list[str],
        environment: Mapping[str, str],
        listening: Callable[[], bool],
        ready: Callable[[], None],
    ) -> int:
        """Start the server and stay until it has exited.

        Args:
            command: its command line.
            environment: its variables.
            listening: whether it answers on its port; polled after it has reported to be ready.
            ready: called once, when it does.

        Returns:
            The container's exit code: 0 after a signal, else the server's, but then never 0.
        """
        self._catch_signals()
        self._process = subprocess.Popen(
            command, env=dict(environment), pass_fds=[self.control], start_new_session=True
        )
        self._theirs.close()
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_READ)
            selector.register(self._signals, selectors.EVENT_READ)
            opening = False
            while self._process.poll() is None:
                if self._companion and not self._companion.restart_if_ended():
                    self._state.phase = Phase.ENDED
                    self._kill()
                    return GENERATE_ENDED
                for key, _ in selector.select(POLL_SECONDS if opening else None):
                    if key.fileobj is self._ours:
                        opening = self._receive(selector) or opening
                    elif self._stop_requested():
                        return self._stop()
                if opening and listening():
                    opening = False
                    ready()
                    self._state.phase = Phase.READY
        return self._exited(self._process.returncode)

    def _catch_signals(self) -> None:
        def ignore(number: int, frame: object) -> None:  # its number is already in the pipe
            del number, frame

        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, ignore)

    def _stop_requested(self) -> bool:
        """Return whether a signal asks the container to stop."""
        numbers = b""
        with suppress(BlockingIOError):
            numbers = os.read(self._signals, 64)
        return any(number in numbers for number in STOP_SIGNALS)

    def _receive(self, selector: selectors.BaseSelector) -> bool:
        """Return whether the middleware has reported that it is ready."""
        try:
            message = self._ours.recv(64)
        except BlockingIOError:
            return False
        except OSError:
            message = b""
        if not message:
            selector.unregister(self._ours)
        self._received += message
        return control.READY in self._received

    def _stop(self) -> int:
        """Stop the server after a signal."""
        assert self._process is not None  # noqa: S101 (it was started)
        if self._state.phase is not Phase.READY:
            log.info("stopped while starting")
            self._kill()
            return 0
        self._state.phase = Phase.DRAINING
        log.info(f"stopping: no new requests, up to {self._drain_seconds:.0f} s for running ones")
        started = time.monotonic()
        drained, outcome = self._drain(started + self._drain_seconds)
        timeout = END_SECONDS if drained else CUT_SECONDS
        log.info(f"stopping: {outcome} after {time.monotonic() - started:.1f} s")
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)
        if not self._stopped(time.monotonic() + timeout):
            log.warning(f"the server did not stop within {timeout:.0f} s and was killed")
        self._kill()
        return 0

    def _stopped(self, deadline: float) -> bool:
        """Wait until the server has closed its connections, or exited.

        What it does after that, seconds of freeing its memory, is left to the kernel.
        """
        assert self._process is not None  # noqa: S101 (it was started)
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_READ)
            selector.register(self._signals, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if self._process.poll() is not None or control.STOPPED in self._received:
                    return True
                for key, _ in selector.select(left):
                    if key.fileobj is self._signals:
                        self._stop_requested()  # a further one changes nothing
                    else:
                        self._receive(selector)
        return False

    def _drain(self, deadline: float) -> tuple[bool, str]:
        """Wait for running requests; return whether all have ended, and a text for the log."""
        assert self._process is not None  # noqa: S101 (it was started)
        self._received = b""
        waits = self._companion is not None
        self._send_drain()
        if self._companion:
            self._companion.stop()
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_READ)
            selector.register(self._signals, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if self._process.poll() is not None:
                    return True, "the server exited"
                if waits and self._companion and self._companion.ended:
                    # Between two of its requests the server may have had none.
                    waits, self._received = False, b""
                    self._send_drain()
                for key, _ in selector.select(left):
                    if key.fileobj is self._signals and self._stop_requested():
                        return False, "cut short by a second signal"
                    if key.fileobj is self._ours:
                        self._receive(selector)
                if control.DRAINED in self._received and not waits:
                    return True, "all requests have finished"
        return False, "running requests were cut off"

    def _send_drain(self) -> None:
        with suppress(OSError):
            self._ours.send(control.DRAIN)

    def _exited(self, code: int) -> int:
        """Return the container's exit code after the server has exited by itself."""
        during = "" if self._state.phase is Phase.READY else " while starting"
        self._state.phase = Phase.ENDED
        self._kill()
        if code < 0:
            log.error(
                f"the server was killed by signal {-code} ({signal.Signals(-code).name}){during}",
                "see the lines above; if there are none, the host probably ran out of memory",
            )
            return 128 - code
        log.error(f"the server exited with {code}{during}", "see the lines above")
        return code or SERVER_ENDED

    def _kill(self) -> None:
        """Kill what remains of the server: the process, its engine, and their children."""
        assert self._process is not None  # noqa: S101 (it was started)
        if self._companion:
            self._companion.kill()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
