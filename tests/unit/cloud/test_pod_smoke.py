"""A smoke test in a pod of the fake RunPod: through its proxy, from the catalogue to the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from higgs_image.cloud import description
from higgs_image.cloud.image_rules import RentedImage
from higgs_image.cloud.pod import log, readiness, rental, smoke
from higgs_image.cloud.pod.smoke import PodOptions, PodTest
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.smoke.record import Record, SmokeImage
from higgs_image.workspace import PROJECT, Workspace
from tests.support.runpod.server import FakeRunPod

DIGEST = "sha256:" + "a" * 64
IMAGE = RentedImage(DIGEST, f"ghcr.io/o/i:1@{DIGEST}", 2_000_000_000, frozenset())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "POLL", 0.05)
    monkeypatch.setattr(rental, "PAUSE", 0.05)
    monkeypatch.setattr(rental, "LATE_SECONDS", 0.3)
    monkeypatch.setattr(log, "PAUSE", 0.05)
    monkeypatch.setattr(smoke, "DWELL_PAUSE", 0.05)


@pytest.fixture
def test(account: RunPodClient, tmp_path: Path) -> PodTest:
    workspace = Workspace(tmp_path / "build", tmp_path / "x.lock", tmp_path / "x.toml")
    return PodTest(
        workspace, account, description.load(PROJECT),
        PodOptions("", 1.0, 1.0, timeout=20.0, dwell=0.3),
    )  # fmt: skip


def run(test: PodTest) -> tuple[Record, Path]:
    return test.of(IMAGE, SmokeImage(IMAGE.reference, DIGEST))


def test_an_image_that_speaks_passes(test: PodTest, runpod: FakeRunPod) -> None:
    done, folder = run(test)
    print(*[x for x in done.checks if x.verdict != "pass"], sep="\n")
    assert (done.verdict, done.reason) == ("pass", "")
    print(*done.checks, sep="\n")
