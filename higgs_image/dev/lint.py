"""What must hold before a change is merged: formatting, lint, types, import rules and tests."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from higgs_image import process
from higgs_image.errors import ChecksFailedError, HiggsError, UsageError
from higgs_image.host import docker_install
from higgs_image.workspace import PROJECT, Workspace

log = logging.getLogger(__name__)

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
    """Run the static checks, and beside them the chosen test suites in one pytest run.

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
    # Playwright's event loop runs in its thread for good: no other test can share the process.
    runs = []
    if together := [SUITES[name] for name in chosen if name != "page"]:
        runs.append(["pytest", *together, f"--numprocesses={2 * processors}", *extra])
    if "page" in chosen:  # a browser is several processes, and a starved one can be too late
        runs.append(
            ["pytest", SUITES["page"], f"--numprocesses={processors}", "--reruns=1", *extra]
        )
    with ThreadPoolExecutor(1) as pool:
        static = pool.submit(lambda: {" ".join(x): process.run(x) for x in _STATIC})
        tested: dict[str, int] = {}
        for tests in runs:
            log.info("checks: %s", " ".join(tests))
            done = process.run(
                [sys.executable, "-m", *tests], on_line=lambda line: print(line, flush=True)
            )
            tested[" ".join(tests)] = done.code
        results = static.result()
    for command, done in results.items():
        log.info("checks: %s", command)
        if done.code != 0:
            print(f"{done.out}{done.err}", flush=True)
    codes = {command: done.code for command, done in results.items()}
    codes |= tested
    if failed := [command for command, code in codes.items() if code != 0]:
        raise ChecksFailedError(
            f"failed: {'; '.join(failed)}", "see the output above; each command can be run alone"
        )
    return CheckRun(codes)


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
