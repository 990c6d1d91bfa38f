"""What must hold before a change is taken: formatting, lint, types, and the tests."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from higgs_image import process
from higgs_image.errors import ChecksFailedError, UsageError
from higgs_image.workspace import PROJECT

log = logging.getLogger(__name__)

SUITES = {
    "unit": "tests/unit",
    "engine": "tests/engine",
    "fork": "tests/fork",
    "gpu": "tests/gpu",
}
"""Suites of tests and where they lie: no engine; a real engine; the real fork; a GPU."""

_STATIC = (
    ("ruff", "format", "--check", "--quiet", "."),
    ("ruff", "check", "--quiet", "."),
    ("mypy", "--no-error-summary"),
)


@dataclass(frozen=True)
class Checked:
    """What was run, and how it ended.

    Attributes:
        commands: command line to exit status, in order.
    """

    commands: dict[str, int]


def run(suites: Sequence[str], extra: Sequence[str] = ()) -> Checked:
    """Run the static checks, then the chosen suites of tests in one pytest run.

    Args:
        suites: names of SUITES; none: all of them. A test that needs something absent is skipped
            with its reason.
        extra: further arguments for pytest.

    Raises:
        ChecksFailedError: at least one of them failed.
    """
    unknown = [name for name in suites if name not in SUITES]
    if unknown:
        raise UsageError(f"suite {unknown[0]!r} is unknown", f"use: {', '.join(SUITES)}")
    paths = [SUITES[name] for name in (suites or SUITES) if (PROJECT / SUITES[name]).is_dir()]
    commands = [*map(list, _STATIC), ["pytest", *paths, *extra]]
    results: dict[str, int] = {}
    os.chdir(PROJECT)
    for command in commands:
        log.info("checks: %s", " ".join(command))
        done = process.run(
            [sys.executable, "-m", *command], on_line=lambda line: print(line, flush=True)
        )
        results[" ".join(command)] = done.code
    failed = [command for command, code in results.items() if code != 0]
    if failed:
        raise ChecksFailedError(
            f"failed: {'; '.join(failed)}", "the output above says where; each runs alone, too"
        )
    return Checked(results)
