"""What the suites share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator

import imageio_ffmpeg
import pytest
from xdist.remote import Producer

from higgs_image.errors import HiggsError
from higgs_image.host import docker_install, facts, install_plan
from higgs_image.workspace import Workspace
from tests.support import debian, schedule
from tests.support.schedule import GroupScheduling

_PERSONAL = (
    "GITHUB_STEP_SUMMARY", "REGISTRY", "IMAGE_NAME", "COMPRESSION", "DEVICE_CLASS", "BASE_IMAGE",
    "EXTRA_CA", "HIGGS_DEBUG", "HIGGS_FAKE_FORK", "COSIGN_KEY",
    "COSIGN_PASSWORD", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE",
    "COLUMNS", "FORCE_COLOR", "IMAGEIO_FFMPEG_EXE",
)  # fmt: skip
"""Variables that a person or a workflow may have set, and that would change what tests see."""


def pytest_configure() -> None:
    """Give every machine the same surroundings, before any test or fixture runs."""
    sys.dont_write_bytecode = False  # every worker and hundreds of programs read the same modules
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background by a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(0o022)
    os.environ["LC_ALL"] = "C.UTF-8"
    os.environ["GOGC"] = "400"  # registries, skopeo and docker collect no garbage of a short life
    for name in _PERSONAL:
        os.environ.pop(name, None)
    for name in ("no_proxy", "NO_PROXY"):  # tests' own servers are on loopback
        known = [x for x in os.environ.get(name, "").split(",") if x]
        os.environ[name] = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost", "::1"]))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Spare the garbage collector thousands of tests, which stay to the end."""
    gc.disable()
    try:
        with schedule.first_worker_first(session.config):
            return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the long tests first."""
    items.sort(key=lambda item: schedule.place(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling | None:
    """Hand out tests as tests/support/schedule.py says."""
    return GroupScheduling(config, log) if config.getoption("dist") == "loadscope" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Give each reason for which tests were skipped one line."""
    reasons = Counter(
        str(report.longrepr[2]).removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        terminalreporter.section("skipped")
        for reason, count in reasons.most_common():
            terminalreporter.write_line(f"{count:>5}  {' '.join(reason.split())}")


@pytest.fixture(scope="session")
def gcc() -> None:
    """A C compiler and its headers, for the fake NVML."""
    debian.require_program("gcc", "gcc libc6-dev")


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """The very ffmpeg that is in the image, whatever this machine has on PATH."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@pytest.fixture(scope="session")
def ffmpeg_folder(ffmpeg: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for PATH with that ffmpeg."""
    folder = tmp_path_factory.mktemp("ffmpeg")
    (folder / "ffmpeg").symlink_to(ffmpeg)
    return str(folder)


@pytest.fixture
def ffmpeg_on_path(ffmpeg_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's ffmpeg comes first on PATH."""
    monkeypatch.setenv("PATH", f"{ffmpeg_folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="session")
def machine() -> facts.Machine:
    """A machine with an engine, buildx and skopeo.

    What is missing is installed on Debian as root, as `./inv test` does before any test runs. In
    CI a missing tool is an error; elsewhere the tests that need it are skipped.
    """
    refused = ""
    try:
        docker_install.run(
            Workspace.default(), registry=True, signing=True, dry_run=not debian.may_install()
        )
    except HiggsError as error:
        if debian.in_ci():
            raise
        refused = error.message
    found = facts.probe()
    lack = install_plan.missing(found, registry=False)
    if found.engine is None or lack:
        pytest.skip(refused or "; ".join(lack.values()) or "no engine answers")
    return found


def _require(program: str, purpose: str) -> None:
    if not shutil.which(program):
        if debian.in_ci():
            pytest.fail(f"{program} is not installed")
        pytest.skip(f"{program} is not installed: {purpose}")


@pytest.fixture(scope="session")
def cosign(machine: facts.Machine) -> None:
    """A machine that can sign."""
    _require("cosign", "./inv install-docker --signing")


@pytest.fixture(scope="session")
def mmdebstrap(machine: facts.Machine) -> None:
    """A machine that can make a base image."""
    _require("mmdebstrap", "./inv install-docker --registry")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the test's thread sleeps, which take no time; another thread's are real."""
    taken: list[float] = []
    real, caller = time.sleep, threading.current_thread()

    def sleep(seconds: float) -> None:
        if threading.current_thread() is caller:
            taken.append(seconds)
        else:
            real(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    return taken
