"""`invoke doctor`: can this machine do the job, and what to do about what it lacks.

Each check is a small function that returns a finding with one of three verdicts: it passes, it
fails (a build or push would fail too), or it was inconclusive. They run side by side, each with
short timeouts, so that the answer is there within ten seconds also when the network is away.
"""

from __future__ import annotations

import threading
import time

from higgs_image import lockfile
from higgs_image.doctor.engine import (
    check_builder,
    check_buildx,
    check_disk,
    check_engine,
    check_engine_disk,
    check_git,
    check_gpu,
    check_gpu_toolkit,
    check_skopeo,
)
from higgs_image.doctor.model import (
    DEADLINE_SECONDS,
    INFO_SECONDS,
    Check,
    Diagnosis,
    Finding,
    Subject,
    one,
)
from higgs_image.doctor.network import check_base, check_hub, check_registry
from higgs_image.doctor.pins import check_fork, check_lock, check_packages, check_submodule
from higgs_image.errors import HiggsError
from higgs_image.host.facts import engine_info
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace


def examine(
    workspace: Workspace, *, registry: str = "", name: str = "image", base_image: str = ""
) -> Diagnosis:
    """Run all checks side by side.

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
    return Diagnosis(tuple(run_checks(CHECKS, subject, DEADLINE_SECONDS)))


def run_checks(checks: dict[str, Check], subject: Subject, seconds: float) -> list[Finding]:
    """Run checks side by side; one without an answer in time is inconclusive.

    The threads are daemons: a look-up of a name that hangs must not hold up the end.
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
    """Return the finding of a check that has not answered: a silent network is a failed one."""
    found = f"no answer within {seconds:.0f} s"
    if name in NETWORK:
        return Finding(name, Verdict.FAIL, found, "check the network and the proxy")
    return Finding(name, Verdict.INCONCLUSIVE, found, "run it again")


CHECKS: dict[str, Check] = {
    "engine": check_engine,
    "buildx": check_buildx,
    "builder": check_builder,
    "skopeo": check_skopeo,
    "git": check_git,
    "disk": check_disk,
    "engine disk": check_engine_disk,
    "lock": check_lock,
    "fork": check_fork,
    "submodule": check_submodule,
    "packages": check_packages,
    "base image": check_base,
    "registry": check_registry,
    "gpu": check_gpu,
    "gpu toolkit": check_gpu_toolkit,
    "hub": check_hub,
}
"""All checks, in the order in which they are shown."""

NETWORK = ("fork", "submodule", "packages", "base image", "registry")
"""Checks of what a build or push has to reach."""
