"""The server under test, wherever it runs, and the wait until it is healthy."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from higgs_image import retry
from higgs_image.smoke import diagnosis, report
from higgs_image.smoke.checks.model import ServerUnderTest
from higgs_image.smoke.client import BrokenAnswerError, TimedClient
from higgs_image.smoke.diagnosis import Diagnosis
from higgs_image.smoke.record import Measured

log = logging.getLogger(__name__)

LOG_LINES = 400
"""Lines of the log in which a reason is looked for: a few tracebacks."""
INTERVAL = 0.25
"""Seconds between two looks at a server that starts."""
PROGRESS = 5.0
"""Seconds between two lines of progress."""


class NotReadyError(Exception):
    """The server cannot start, or did not in time.

    Args:
        what: that happened.
        hint: what it means and what to do; empty if unknown.
        tail: the end of the log.
        of_machine: the machine lacks something, which says nothing about the image.
    """

    def __init__(
        self, what: str, hint: str = "", tail: str = "", *, of_machine: bool = False
    ) -> None:
        super().__init__(what)
        self.tail, self.of_machine = tail, of_machine
        self.reason = f"{what}: {hint}" if hint else what


class RunningServer(ServerUnderTest):
    """A started image on this machine."""

    @abstractmethod
    def summary(self) -> Measured:
        """Return what a record says of it when it has ended."""

    @property
    def alive(self) -> bool:
        """Whether the process that was started still runs."""
        return _is_alive(self.state())

    def is_healthy(self) -> bool:
        """Tell whether GET /health is 200."""
        try:
            asked = TimedClient(self.client.port, timeout=10)
            return bool(asked.port) and asked.get("/health").status == 200
        except BrokenAnswerError:
            return False

    def logs(self, tail: int) -> str:
        """Return the last lines of its log, without control characters."""
        text = self.all_logs().decode(errors="replace")
        return "\n".join(map(diagnosis.printable, text.splitlines()[-tail:]))

    def tail(self) -> str:
        """Return the end of its log as a report shows it."""
        lines = self.logs(report.TAIL).splitlines()
        return "\n".join(line[: report.LONGEST] for line in lines)

    def save_log(self, path: Path) -> None:
        """Write all of its log to a file."""
        path.write_bytes(self.all_logs())


def _is_alive(state: Mapping[str, Any]) -> bool:
    return state["Status"] in ("created", "running") and not state["RestartCount"]


def wait_until_healthy(server: RunningServer, timeout: float, interval: float) -> None:
    """Wait until /health is 200, and stop as soon as that cannot happen any more.

    Raises:
        NotReadyError: the server ended, restarted, logged a fatal line, or took too long.
    """
    started = reported = time.monotonic()

    def ready() -> bool:
        nonlocal reported
        state = server.state()
        if not _is_alive(state):
            raise _ended(server, state)
        if server.is_healthy():
            return True
        if found := diagnosis.find(server.logs(LOG_LINES)):
            time.sleep(1)  # for the rest of the traceback
            raise not_ready(found[1], f"{found[1].what} ({found[0][:200]})", server.tail())
        if time.monotonic() - reported > PROGRESS:
            reported = time.monotonic()
            last = server.logs(1)[:120] or "(no log yet)"
            log.info("smoke: %3.0f s, %s: %s", reported - started, state["Status"], last)
        return False

    if not retry.wait_until(ready, timeout, interval=interval):
        raise NotReadyError(
            f"it was not healthy within {timeout:.0f} s",
            "see the end of its log, or give it more time: --timeout",
            server.tail(),
        )


def _ended(server: RunningServer, state: Mapping[str, Any]) -> NotReadyError:
    code, killed = int(state["ExitCode"]), bool(state.get("OOMKilled"))
    how = "restarted" if state["RestartCount"] else f"ended with status {code}"
    what, text = f"the container {how} before it was healthy", server.logs(LOG_LINES)
    if refusal := diagnosis.refusal(text):
        of_machine = code in diagnosis.OF_MACHINE
        return NotReadyError(f"{what}: {refusal}", "", server.tail(), of_machine=of_machine)
    found, error = diagnosis.find(text), diagnosis.last_error(text)
    meaning = found[1] if found else diagnosis.of_exit(code, error, out_of_memory=killed)
    return not_ready(
        meaning, f"{what} ({meaning.what})" + f": {error[:200]}" * bool(error), server.tail()
    )


def not_ready(meaning: Diagnosis, what: str, tail: str = "") -> NotReadyError:
    """Return the error for a known meaning."""
    return NotReadyError(what, meaning.hint, tail, of_machine=meaning.of_machine)
