"""Makes the checks on a container that is started here, and says how it ended."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from higgs_image.smoke import container, record, report
from higgs_image.smoke.checks import CHECKS, START, Check, Context, Failed, Undecided
from higgs_image.smoke.client import Broken, Client, Hanging
from higgs_image.smoke.container import NotReady, Server, Setup
from higgs_image.smoke.record import REQUIRED, Device, Kind, Measured

log = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds after a cut connection: if that was the server's end, the engine knows of it by then."""
LESS_PATIENCE = 30.0
"""Seconds without a byte, once one answer has hung: the verdict is known by then."""


class Observed(NamedTuple):
    """What was seen of an image.

    Attributes:
        checks: each of them, made or not.
        device: what it ran on.
        ended: how the container ended; empty if there was none.
    """

    checks: list[record.Check]
    device: Device
    ended: Measured


def observe(
    setup: Setup,
    host: str | None,
    kind: Kind,
    folder: Path,
    *,
    timeout: float,
    patience: float,
    only: frozenset[str],
) -> Observed:
    """Start the container, make the checks, and end it.

    Args:
        setup: how it is started.
        host: the engine's address, as DOCKER_HOST has it.
        kind: what it runs on.
        folder: takes recordings and log.
        timeout: seconds until it has to be healthy.
        patience: seconds without a byte after which an answer counts as hanging.
        only: names of checks; empty: all.

    Raises:
        EngineError: the engine refused to start it.
    """
    with container.created(setup, host) as handle:
        begun = time.monotonic()
        server: Server | None = None
        try:
            server, seconds = container.start(handle, timeout)
        except NotReady as error:
            verdict: record.Verdict = "inconclusive" if error.of_machine else "fail"
            found = not_started(verdict, error.reason, kind, time.monotonic() - begun)
            log.info("%s", error.tail)
        else:
            log.info("smoke: healthy after %.1f s", seconds)
            server.client = Client(server.client.port, patience=patience)
            device = _device(server, kind)
            context = Context(server, folder, real=kind == "gpu")
            measured: Measured = {"health_s": round(seconds, 1)}
            with contextlib.suppress(KeyError):  # unlike the time, no neighbour makes it longer
                measured["cpu_s"] = round(server.cpu_seconds(), 1)
            checks = [_start_check("pass", "", seconds, measured)]
            checks += make(context, kind, only)
            return Observed(checks, device, _end(server, folder, kept=setup.keep))
        with contextlib.suppress(Exception):
            server = Server(handle.get_wrapped_container())
        return Observed(found.checks, found.device, _end(server, folder, kept=setup.keep))


def _start_check(
    verdict: record.Verdict, reason: str, seconds: float, measured: Measured | None = None
) -> record.Check:
    return record.Check(START, verdict, True, reason, round(seconds, 2), measured or {})


def not_started(verdict: record.Verdict, reason: str, kind: Kind, seconds: float = 0.0) -> Observed:
    """Return what there is to say of an image that does not come up."""
    log.info("smoke: start: %s: %s", verdict, reason)
    others = [_not_made(check, kind, "the server did not start") for check in CHECKS]
    return Observed([_start_check(verdict, reason, seconds), *others], _device(None, kind), {})


def make(context: Context, kind: Kind, only: frozenset[str]) -> list[record.Check]:
    """Make all checks that are wanted; once the server is gone, none can decide any more."""
    done: list[record.Check] = []
    gone = ""
    for check in CHECKS:
        if only and check.name not in only:
            done.append(_not_made(check, kind, "it was not asked for"))
        elif gone:
            done.append(_not_made(check, kind, gone))
        else:
            done.append(made := _made(check, context, kind))
            log.info("smoke: %s: %s%s", made.name, made.verdict,
                     f": {made.reason}" if made.reason else "")  # fmt: skip
            if check.name != "stop" and not context.server.alive:
                state = context.server.state()
                gone = f"the server ended with status {state['ExitCode']} in {check.name}"
                if made.verdict != "fail":
                    done[-1] = msgspec.structs.replace(made, verdict="fail", reason=gone)
    return done


def _made(check: Check, context: Context, kind: Kind) -> record.Check:
    begun = time.monotonic()
    before = {path.name for path in context.folder.iterdir()}
    measured: Measured = {}
    verdict: record.Verdict = "pass"
    reason = ""
    try:
        measured = check.run(context)
        with contextlib.suppress(KeyError):  # it may just have ended
            context.memory_mb = max(context.memory_mb, context.server.memory_mb())
    except (Failed, Broken) as error:
        verdict, reason = "fail", str(error)
        if not isinstance(error, Failed):
            time.sleep(GRACE)
        if isinstance(error, Hanging):
            context.server.client = Client(
                context.client.port, patience=min(LESS_PATIENCE, context.client.patience)
            )
    except Undecided as error:
        verdict, reason = "inconclusive", str(error)
    except (KeyError, TypeError, IndexError) as error:
        verdict, reason = "fail", f"the answer has not the form it should: {error!r}"
    files = sorted({path.name for path in context.folder.iterdir()} - before)
    return record.Check(
        check.name,
        verdict,
        check.name in REQUIRED[kind],
        reason,
        round(time.monotonic() - begun, 2),
        measured,
        files,
    )


def _not_made(check: Check, kind: Kind, why: str) -> record.Check:
    return record.Check(check.name, "inconclusive", check.name in REQUIRED[kind], why)


def _end(server: Server | None, folder: Path, *, kept: bool) -> Measured:
    """Keep the log and say how the container stands."""
    if server is None:
        return {}
    server.save_log(folder / report.LOG)
    state = server.state()
    return {
        "id": str(server.container.id),
        "status": str(state["Status"]),
        "exit_code": int(state["ExitCode"]),
        "out_of_memory": bool(state.get("OOMKilled")),
        "restarts": int(state["RestartCount"]),
        "kept": kept,
    }


def _device(server: Server | None, kind: Kind) -> Device:
    if kind == "cpu":
        return Device("cpu", _processor(), os.cpu_count() or 1)
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    lines = ((server.output_of(*query) if server else None) or "unknown, ").splitlines()
    name, _, driver = lines[0].partition(", ")
    return Device("gpu", name, len(lines), driver)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"
