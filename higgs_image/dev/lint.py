"""What must hold before a change is merged: formatting, lint, types, import rules and tests."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from higgs_image import process
from higgs_image.errors import ChecksFailedError, HiggsError, UsageError
from higgs_image.host import docker_install
from higgs_image.workspace import PROJECT, Workspace

log = logging.getLogger(__name__)

NOTHING_SELECTED = 5
"""pytest's exit code where `extra` selects no test; one of two runs may have none."""
SUITES = {
    "unit": "tests/unit",
    "engine": "tests/engine",
    "fork": "tests/fork",
    "gpu": "tests/gpu",
    "page": "tests/page",
}
"""Folder of each suite. They need: no engine; a real engine; the real fork; a GPU; Chromium."""

_STATIC = (
    ("ruff", "format", "--check", "--quiet", "."),
    ("ruff", "check", "--quiet", "."),
    ("lint-imports", "--no-cache", "--no-logo"),
    ("codespell",),
    ("mypy", "--no-error-summary"),
)


@dataclass(frozen=True)
class CheckRun:
    """The checks that were run.

    Attributes:
        commands: command line to exit status, in order.
    """

    commands: dict[str, int]


def run(suites: Sequence[str], extra: Sequence[str] = ()) -> CheckRun:
    """Run the static checks and the page's tests, and beside them the other suites in one run.

    Args:
        suites: names from SUITES; empty for all. Tests that need something this machine lacks
            are skipped with the reason.
        extra: further arguments for pytest.

    Raises:
        UsageError: a suite is unknown.
        ChecksFailedError: at least one check or test failed.
    """
    if unknown := [name for name in suites if name not in SUITES]:
        raise UsageError(f"unknown suite: {unknown[0]!r}", f"use: {', '.join(SUITES)}")
    chosen = [name for name in (suites or SUITES) if (PROJECT / SUITES[name]).is_dir()]
    os.chdir(PROJECT)
    if set(chosen) & {"engine", "fork", "gpu"}:
        _install_tools()
    # Tests wait for programs and servers half of the time: two workers for each processor.
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    beside = list(_STATIC)
    # Playwright's event loop runs in its thread for good: no other test can share the process.
    # The page's tests wait most of the time, for sound that is played; a machine that does much
    # else can be too slow for one of them, which is run again.
    together = [SUITES[name] for name in chosen if name != "page"]
    page = ("pytest", SUITES["page"], f"--numprocesses={processors}", "--reruns=1", *extra)
    tests = ("pytest", *together, f"--numprocesses={2 * processors}", *extra) if together else page
    if together and "page" in chosen:
        beside.append(page)
    codes: dict[str, int] = {}
    with ThreadPoolExecutor(2) as pool:
        waiting = {" ".join(x): pool.submit(_run, x) for x in beside}
        log.info("checks: %s", " ".join(tests))
        codes[" ".join(tests)] = _run(tests, on_line=lambda line: print(line, flush=True)).code
        for command, found in waiting.items():
            done = found.result()
            log.info("checks: %s", command)
            if done.code != 0 or command.startswith("pytest"):
                print(f"{done.out}{done.err}", flush=True)
            codes[command] = done.code
    runs = [x for x in codes if x.startswith("pytest")]
    if any(codes[x] != NOTHING_SELECTED for x in runs):
        codes |= {x: 0 for x in runs if codes[x] == NOTHING_SELECTED}
    if failed := [command for command, code in codes.items() if code != 0]:
        raise ChecksFailedError(
            f"failed: {'; '.join(failed)}", "see the output above; each command can be run alone"
        )
    return CheckRun(codes)


def _run(command: Sequence[str], on_line: Callable[[str], None] | None = None) -> process.Completed:
    python = [sys.executable, "-m"] if command[0] == "pytest" else []
    return process.run([*python, *command], on_line=on_line)


def _install_tools() -> None:
    """Install what the tests need, on Debian as root; in CI a failure is an error."""
    try:
        report = docker_install.run(Workspace.default(), registry=True, signing=True)
    except HiggsError as error:
        if os.environ.get("CI") == "true":
            raise
        log.info("checks: %s (%s); tests that need it are skipped", error.message, error.hint)
    else:
        if report.changed:
            log.info("checks: %s", report.text())
