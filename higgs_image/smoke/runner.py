"""Run the checks on a container that is started here."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from higgs_image.smoke import report
from higgs_image.smoke.checks import CHECKS, START, SmokeCheck
from higgs_image.smoke.checks.model import CheckFailedError, ImageUnderTest, UndecidedError
from higgs_image.smoke.client import BrokenAnswerError, HangingAnswerError
from higgs_image.smoke.record import CheckResult, DeviceType, Measured, Place, SmokeDevice, required
from higgs_image.smoke.server import NotReadyError, RunningServer
from higgs_image.verdict import Verdict

if TYPE_CHECKING:
    from higgs_image.smoke.session import SmokeOptions

log = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds until the engine knows of the end of a server that cut a connection."""
SHORT_TIMEOUT = 30.0
"""Seconds without a byte, once one answer has hung: the verdict cannot change any more."""
CHECKS_SECONDS = 3600.0
"""Seconds after which no further check is started."""


class Observation(NamedTuple):
    """What was observed of an image.

    Attributes:
        checks: all of them, whether they ran or not.
        device: that it ran on.
        container: state of the container at the end; empty if there was none.
    """

    checks: list[CheckResult]
    device: SmokeDevice
    container: Measured


class Launch(ABC):
    """A way to run the image under test."""

    @abstractmethod
    def created(self) -> AbstractContextManager[None]:
        """Return a context at whose end nothing of the run is left."""

    @abstractmethod
    def start(self, timeout: float) -> RunningServer:
        """Start it and wait until it is healthy.

        Raises:
            NotReadyError: the server does not start.
            EngineError: it cannot be run here.
        """

    @abstractmethod
    def started(self) -> RunningServer | None:
        """Return what `start` has started, also if it did not become healthy."""


def observe(
    launch: Launch, device: DeviceType, folder: Path, timeout: float, options: SmokeOptions
) -> Observation:
    """Start the image, run the checks, and end it.

    Args:
        launch: how it is run.
        device: type of its device.
        folder: takes recordings and log.
        timeout: seconds until it has to be healthy.
        options: of the test.

    Raises:
        EngineError: it cannot be run here.
    """
    with launch.created():
        begun = time.monotonic()
        try:
            server = launch.start(timeout)
        except NotReadyError as error:
            verdict = Verdict.INCONCLUSIVE if error.of_machine else Verdict.FAIL
            found = not_started(verdict, error.reason, device, time.monotonic() - begun)
            log.info("%s", error.tail)
            return found._replace(container=_end(launch.started(), folder, kept=options.keep))
        seconds = time.monotonic() - begun
        log.info("smoke: healthy after %.1f s", seconds)
        server.client = dataclasses.replace(server.client, timeout=options.answer_timeout)
        measured: Measured = {"health_s": round(seconds, 1)}
        with contextlib.suppress(KeyError):  # independent of other load on the machine
            measured["cpu_s"] = round(server.cpu_seconds(), 1)
        tested = _device(server, device)
        checks = [start_result(Verdict.PASS, "", seconds, measured)]
        checks += run_checks(ImageUnderTest(server, folder, device), options.only, options.more)
        return Observation(checks, tested, _end(server, folder, kept=options.keep))


def start_result(
    verdict: Verdict, reason: str, seconds: float, measured: Measured | None = None
) -> CheckResult:
    """Return the result of the first check: whether the server became healthy."""
    return CheckResult(START, verdict, True, reason, round(seconds, 2), measured or {})


def not_started(
    verdict: Verdict,
    reason: str,
    device: DeviceType,
    seconds: float = 0.0,
    place: Place = "engine",
) -> Observation:
    """Return the observation of an image that does not start."""
    log.info("smoke: start: %s: %s", verdict, reason)
    needed = required(device, place)
    others = [_skipped(check, needed, "the server did not start") for check in CHECKS]
    checks = [start_result(verdict, reason, seconds), *others]
    return Observation(checks, _device(None, device), {})


def run_checks(
    image: ImageUnderTest, only: frozenset[str] = frozenset(), more: tuple[SmokeCheck, ...] = ()
) -> list[CheckResult]:
    """Run all checks that were asked for; once the server has ended, none can decide any more.

    Args:
        image: the running server.
        only: names of checks; empty: all.
        more: checks of other packages: run before the last one, which stops the server.
    """
    done: list[CheckResult] = []
    deadline = time.monotonic() + CHECKS_SECONDS
    gone = ""
    for check in (*CHECKS[:-1], *more, CHECKS[-1]):
        if only and check.name not in only:
            done.append(_skipped(check, image.required, "it was not asked for"))
        elif gone:
            done.append(_skipped(check, image.required, gone))
        elif time.monotonic() > deadline:
            late = f"the checks took more than {CHECKS_SECONDS:.0f} s"
            done.append(_skipped(check, image.required, late))
        else:
            done.append(result := _run(check, image))
            reason = f": {result.reason}" if result.reason else ""
            log.info("smoke: %s: %s%s", result.name, result.verdict, reason)
            if check.name != "stop" and not image.server.alive:
                code = image.server.state()["ExitCode"]
                gone = f"the server ended with status {code} in {check.name}"
                if result.verdict != Verdict.FAIL:
                    done[-1] = msgspec.structs.replace(result, verdict=Verdict.FAIL, reason=gone)
    return done


def _run(check: SmokeCheck, image: ImageUnderTest) -> CheckResult:
    begun = time.monotonic()
    before = {path.name for path in image.folder.iterdir()}
    measured: Measured = {}
    verdict, reason = Verdict.PASS, ""
    try:
        measured = image.judge(check.run(image))
        with contextlib.suppress(KeyError, UndecidedError):  # it may just have ended
            image.memory_mb = max(image.memory_mb, image.server.memory_mb())
    except CheckFailedError as error:
        verdict, reason, measured = Verdict.FAIL, str(error), error.measured
    except BrokenAnswerError as error:
        verdict, reason = Verdict.FAIL, str(error)
        time.sleep(GRACE)
        if isinstance(error, HangingAnswerError):
            timeout = min(SHORT_TIMEOUT, image.client.timeout)
            image.server.client = dataclasses.replace(image.client, timeout=timeout)
    except UndecidedError as error:
        verdict, reason = Verdict.INCONCLUSIVE, str(error)
    except (KeyError, TypeError, IndexError) as error:
        verdict, reason = Verdict.FAIL, f"unexpected format of an answer: {error!r}"
    return CheckResult(
        check.name,
        verdict,
        check.name in image.required,
        reason,
        round(time.monotonic() - begun, 2),
        measured,
        sorted({path.name for path in image.folder.iterdir()} - before),
    )


def _skipped(check: SmokeCheck, needed: frozenset[str], why: str) -> CheckResult:
    return CheckResult(check.name, Verdict.INCONCLUSIVE, check.name in needed, why)


def _end(server: RunningServer | None, folder: Path, *, kept: bool) -> Measured:
    """Save the log and return how the server ended."""
    if server is None:
        return {}
    server.save_log(folder / report.LOG)
    return server.summary() | {"kept": kept}


def _device(server: RunningServer | None, device: DeviceType) -> SmokeDevice:
    if device == "cpu":
        return SmokeDevice("cpu", processor(), os.cpu_count() or 1)
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    lines = ((server.output_of(*query) if server else None) or "unknown, ").splitlines()
    name, _, driver = lines[0].partition(", ")
    return SmokeDevice("gpu", name, len(lines), driver)


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"
