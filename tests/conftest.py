"""What the suites share."""

from __future__ import annotations

import os
import signal

import pytest

from higgs_image.errors import HiggsError
from higgs_image.host import docker_install
from higgs_image.workspace import Workspace


def pytest_configure() -> None:
    """Let tests press Ctrl-C also where the shell started them in the background, deaf to it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests print is nothing for the summary of the workflow's job that runs them."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture(scope="session")
def machine() -> None:
    """An engine and its tools: in CI they are installed, never skipped; else asked for."""
    in_ci = os.environ.get("CI") == "true"
    try:
        report = docker_install.run(
            Workspace.default(), registry=True, signing=True, dry_run=not in_ci
        )
    except HiggsError as error:
        if in_ci:
            raise
        pytest.skip(f"{error.message} ({error.hint})")
    if report.changed and not in_ci:
        pytest.skip(
            f"run ./inv engine --registry --signing first, it would: {'; '.join(report.done)}"
        )
