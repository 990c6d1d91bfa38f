"""Runs that are killed or interrupted at any moment: afterwards no pod is left, or the reaper
removes it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from higgs_image import retry
from higgs_image.cloud.pod import marker, reaper, rental
from higgs_image.cloud.pod.choice import RatedGpu
from higgs_image.cloud.pod.marker import PodMarker
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import Pod
from higgs_image.errors import INTERRUPTED, CloudNotFoundError, UsageError
from higgs_image.workspace import PROJECT
from tests.support.runpod import rent
from tests.support.runpod.server import FakeRunPod
from tests.support.warm import WarmPopen

MOMENTS: dict[str, tuple[str, str, str, int]] = {
    "before it looks for leftovers": ("before", "GET", r"/v2/pods$", 1),
    "before it reads the catalogue": ("before", "GET", r"/v2/catalog/gpus$", 1),
    "while RunPod creates the pod": ("before", "POST", r"/v2/pods$", 1),
    "before it knows the pod": ("after", "POST", r"/v2/pods$", 1),
    "before it follows the log": ("before", "GET", r"/logs$", 1),
    "while the image is pulled": ("before", "GET", r"/v2/pods/\w+$", 2),
    "while the server loads": ("before", "GET", r"/ping$", 1),
    "before the first speech": ("before", "POST", r"/speech$", 1),
    "in the middle of the checks": ("before", "POST", r"/speech$", 12),
    "in the dwell": ("before", "POST", r"/speech$", 56),
    "while RunPod deletes the pod": ("before", "DELETE", r"/v2/pods/", 1),
    "before it knows that the pod is deleted": ("after", "DELETE", r"/v2/pods/", 1),
}
"""When, method, path, and the count of such requests at which the run ends."""

each_moment = pytest.mark.parametrize("moment", MOMENTS)
Start = Callable[[str, signal.Signals], int]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in rent.WAITS:
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def run_until(runpod: FakeRunPod, tmp_path: Path) -> Start:
    """Return a function that starts a run, and signals it at a moment; it returns the status."""

    def start(moment: str, number: signal.Signals) -> int:
        when, method, path, count = MOMENTS[moment]
        seen, lock = 0, threading.Lock()
        dwell = "20" if moment == "in the dwell" else "0"
        child = WarmPopen(
            [sys.executable, "-m", "tests.support.runpod.rent", str(tmp_path), dwell],
            cwd=PROJECT, stderr=subprocess.PIPE,
        )  # fmt: skip

        def watch(*what: str) -> None:
            nonlocal seen
            if what[:2] == (when, method) and re.search(path, what[2]):
                with lock:
                    seen += 1
                    now = seen
                if now == count:
                    child.send_signal(number)
                    if number == signal.SIGKILL:
                        child.wait()

        runpod.watch = watch
        _, log = child.communicate(timeout=120)
        assert seen >= count, log.decode()
        assert retry.wait_until(lambda: runpod.running == 0, 10)
        return child.returncode

    return start


@each_moment
def test_the_reaper_removes_the_pod_of_a_killed_run(
    moment: str, run_until: Start, runpod: FakeRunPod, account: RunPodClient
) -> None:
    assert run_until(moment, signal.SIGKILL) == -signal.SIGKILL
    left = list(runpod.pods)
    found = reaper.reap(account)
    assert [x.id for x in found] == left and runpod.pods == {}
    assert all(x.leftover == "the run that made it has ended" for x in found)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("before it knows the pod", signal.SIGINT),
        ("while the image is pulled", signal.SIGINT),
        ("in the middle of the checks", signal.SIGTERM),
        ("in the dwell", signal.SIGINT),
    ],
)
def test_an_interrupted_run_deletes_its_pod(
    moment: str, number: signal.Signals, run_until: Start, runpod: FakeRunPod
) -> None:
    assert run_until(moment, number) == INTERRUPTED
    assert runpod.pods == {} and len(runpod.deleted) == 1


def test_a_deletion_is_not_interrupted(run_until: Start, runpod: FakeRunPod) -> None:
    assert run_until("while RunPod deletes the pod", signal.SIGINT) == 0
    assert runpod.pods == {}


def create(account: RunPodClient, until: PodMarker, name: str = "") -> Pod:
    target = rent.target(Path("/nonexistent"))
    rental_of = rental.Rental(
        account, target.description, rent.IMAGE,
        [RatedGpu("NVIDIA L40S", 48, 0.79, "HIGH", "8.9", "")], until, {},
    )  # fmt: skip
    return rental.create(rental_of, name or marker.new_name())


def test_pods_in_use_stay(runpod: FakeRunPod, account: RunPodClient) -> None:
    mine = create(account, PodMarker.mine(1.0, owned=True))
    kept = create(account, PodMarker.mine(1.0, owned=False))
    over = create(account, PodMarker.mine(-1.0, owned=False))
    late = create(account, PodMarker.mine(-1.0, owned=True))
    other = create(account, PodMarker.mine(-1.0, owned=True), "somebody-elses")
    assert {x.id for x in reaper.reap(account)} == {over.id, late.id}
    assert set(runpod.pods) == {mine.id, kept.id, other.id}
    assert {x.id for x in reaper.own(account)} == {mine.id, kept.id}


def test_a_pod_without_a_marker_is_not_ours(runpod: FakeRunPod, account: RunPodClient) -> None:
    pod = create(account, PodMarker.mine(-1.0, owned=False))
    runpod.pods[pod.id].body["env"] = {"POD_UNTIL": "tomorrow"}
    assert reaper.reap(account) == [] and list(runpod.pods) == [pod.id]


def test_only_our_pods_are_taken_down(runpod: FakeRunPod, account: RunPodClient) -> None:
    other = create(account, PodMarker.mine(1.0, owned=False), "somebody-elses")
    with pytest.raises(UsageError, match="was not rented by this project"):
        reaper.find(account, other.id)
    with pytest.raises(CloudNotFoundError, match="no pod nothing"):
        reaper.find(account, "nothing")
    mine = create(account, PodMarker.mine(1.0, owned=False))
    assert reaper.find(account, mine.id).name == reaper.find(account, mine.name).name == mine.name
