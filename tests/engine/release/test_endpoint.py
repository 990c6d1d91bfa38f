"""RunPod's load-balanced endpoint with a real registry and journal; RunPod is a fake one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from higgs_image.oci.artifacts import Repository
from higgs_image.release.journal import Journal
from higgs_image.release.records import EndpointUpdate
from higgs_image.workspace import PROJECT
from tests.support.runpod.fixtures import account, runpod
from tests.support.runpod.server import FakeRunPod

from .conftest import Release

__all__ = ["account", "runpod"]

pytestmark = pytest.mark.engine


def test_the_whole_way_on_the_command_line(
    release: Release, repository: Repository, runpod: FakeRunPod, tmp_path: Path
) -> None:
    registry, _, name = release.target.rpartition("/")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "RUNPOD_"))}
    fork = {"HIGGS_FAKE_FORK": str(release.workspace.lock_file.parent)}
    there = {"REGISTRY": registry, "IMAGE_NAME": name} | fork | runpod.environment()
    first, second = release.push("1"), release.push("2")
    untested = release.push("3", smoke="gpu fail")
    release.promote(first)
    steps: list[tuple[int, str, list[str]]] = [
        (68, "has no endpoint", ["endpoint-check"]),
        (62, "has no endpoint", ["endpoint-status"]),
        (0, "24 claimed", ["endpoint-gpus"]),
        (0, '"type": "LOAD_BALANCER"', ["endpoint-render"]),
        (0, "would make: the endpoint", ["endpoint-plan"]),
        (0, f"@{first}", ["endpoint-apply"]),
        (0, f"@{first} already", ["endpoint-apply"]),
        (0, "nothing to do", ["endpoint-check"]),
        (50, "ended with fail", ["endpoint-apply", f"--image={untested}"]),
        (0, f"@{second}", ["endpoint-apply", f"--image={second}"]),
        (68, "image: ", ["endpoint-check"]),
        (0, "no worker runs", ["endpoint-status"]),
        (0, "changes image of the endpoint", ["history"]),
        (0, "vastai search offers", ["vast-render"]),
        (0, '"endpointType": "LB"', ["hub-render", f"--into={tmp_path / '.runpod'}"]),
    ]
    for code, text, words in steps:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *words], cwd=PROJECT, capture_output=True,
            text=True, env=clean | there,
        )  # fmt: skip
        shown = done.stdout + done.stderr
        assert (done.returncode, text in shown) == (code, True), (words, shown)
    assert [x["image"].rpartition("@")[2] for x in runpod.endpoints.values()] == [second]
    dockerfile = (tmp_path / ".runpod" / "Dockerfile").read_text()
    assert dockerfile.endswith(f"@{first}\n")
    (entry,) = [x for x in Journal(repository).of(first)
                if isinstance(x.record, EndpointUpdate)]  # fmt: skip
    assert "makes the endpoint" in entry.text()
    key = runpod.environment()["RUNPOD_API_KEY"]
    assert key not in "".join(str(x) for x in runpod.requests)
