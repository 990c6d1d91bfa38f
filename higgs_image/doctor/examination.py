"""`./inv doctor`: whether this machine can build and push, and what to install if not.

The checks run in parallel with short timeouts, so that the answer is complete within ten seconds
even without a network. A failed check means that a build or push would fail, too.
"""

from __future__ import annotations

import threading
import time

from higgs_image import lockfile
from higgs_image.doctor import engine, network, pins, rented
from higgs_image.doctor.model import (
    DEADLINE_SECONDS,
    INFO_SECONDS,
    Check,
    DoctorReport,
    Finding,
    Subject,
    one,
)
from higgs_image.errors import HiggsError
from higgs_image.host.facts import engine_info
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace


def examine(
    workspace: Workspace, *, registry: str = "", name: str = "image", base_image: str = ""
) -> DoctorReport:
    """Run all checks in parallel.

    Args:
        workspace: folders of the product.
        registry: host and path to push to; empty if none is configured.
        name: the image's name.
        base_image: used instead of the locked base; empty if it is not overridden.
    """
    info, refusal = engine_info(INFO_SECONDS)
    try:
        lock = lockfile.load(workspace.lock_file)
    except HiggsError:
        lock = None
    subject = Subject(workspace, lock, info, refusal, registry, name, base_image)
    return DoctorReport(tuple(run_checks(CHECKS, subject, DEADLINE_SECONDS)))


def run_checks(checks: dict[str, Check], subject: Subject, seconds: float) -> list[Finding]:
    """Run checks in parallel; see `late` for one that does not end in time.

    The threads are daemons: a DNS look-up that hangs must not keep the process alive.
    """
    found: dict[str, Finding] = {}

    def work(name: str, check: Check) -> None:
        found[name] = one(name, check, subject)

    threads = [
        threading.Thread(target=work, args=item, daemon=True, name=item[0])
        for item in checks.items()
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [found.get(name) or late(name, seconds) for name in checks]


def late(name: str, seconds: float) -> Finding:
    """Return the finding for a check that timed out: a failure if it needs the network."""
    found = f"no answer within {seconds:.0f} s"
    if name in NETWORK:
        return Finding(name, Verdict.FAIL, found, "check the network and the proxy")
    return Finding(name, Verdict.INCONCLUSIVE, found, "run it again")


CHECKS: dict[str, Check] = {
    "engine": engine.check_engine,
    "buildx": engine.check_buildx,
    "builder": engine.check_builder,
    "skopeo": engine.check_skopeo,
    "git": engine.check_git,
    "disk": engine.check_disk,
    "engine disk": engine.check_engine_disk,
    "lock": pins.check_lock,
    "fork": pins.check_source("fork"),
    "submodule": pins.check_source("submodule"),
    "packages": pins.check_packages,
    "base image": network.check_base,
    "registry": network.check_registry,
    "gpu": engine.check_gpu,
    "gpu toolkit": engine.check_gpu_toolkit,
    "hub": network.check_hub,
    "template": rented.check_template,
}
"""All checks, in the order of the report."""

NETWORK = ("fork", "submodule", "packages", "base image", "registry")
"""Checks of servers that a build or push needs."""
