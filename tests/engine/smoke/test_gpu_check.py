"""The smoke test without an engine: the fake fork's layers, from a layout and from a registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from higgs_image import retry
from higgs_image.build import pipeline
from higgs_image.build.overrides import Overrides
from higgs_image.demo import fake_fork
from higgs_image.errors import RegistryNotFoundError, UsageError
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.release import publish
from higgs_image.smoke import gpu_check, record, report, sandbox
from higgs_image.smoke.checks import lifecycle, load
from higgs_image.smoke.session import SmokeOptions
from higgs_image.workspace import PROJECT, Workspace

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not sandbox.has_namespaces(), reason="this user may not make namespaces"),
]


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody reach the engine: there is none where this runs."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setattr(load, "IDLE_SECONDS", 2.0)
    monkeypatch.setattr(lifecycle, "STOP_SECONDS", 8)


def processes() -> list[str]:
    """Command lines of everything that runs in an image's files."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str((path / "root").readlink()) != "/":
                found.append((path / "cmdline").read_text())
        except OSError:
            continue
    return [x for x in found if "higgs_runtime" in x]


def test_the_layers_of_the_last_build_pass(built: tuple[Path, str]) -> None:
    workspace = fake_fork.workspace_in(built[0])
    before = processes()
    found, folder = gpu_check.run(workspace, SmokeOptions(device="cpu", timeout=60.0))
    assert found.passed, report.text(found)
    assert record.load(folder / "record.json") == found
    assert found.image.digest == workspace.read_state("build-gzip")["digest"]
    assert found.image.tag and found.image.lock_sha256
    assert found.container == {"engine": "none", "status": "exited", "exit_code": 0, "kept": False}
    undecided = {check.name for check in found.checks if check.verdict == "inconclusive"}
    assert undecided == {"words", "gpu-memory"}
    measured = {check.name: check.measured for check in found.checks}
    assert 5 < float(measured["memory"]["container_mb"]) < 500
    assert measured["listeners"]["kv_cache_tokens"] == 60_000
    assert {"record.json", "report.md", "server.log", "speech.wav"} <= {
        x.name for x in folder.iterdir()
    }
    assert retry.wait_until(lambda: processes() == before, 20)
    assert str(workspace.build) not in Path("/proc/self/mounts").read_text()


def test_a_broken_image_fails(built: tuple[Path, str]) -> None:
    workspace = fake_fork.workspace_in(built[0])
    options = SmokeOptions(device="cpu", timeout=60.0, environment={"PORT_HEALTH": "none"})
    found, folder = gpu_check.run(workspace, options)
    assert found.verdict == "fail"
    assert "ended with status 2 before it was healthy: PORT_HEALTH is not" in found.checks[0].reason
    assert b"PORT_HEALTH" in (folder / "server.log").read_bytes()


def test_a_gpu_that_is_not_there_is_inconclusive(built: tuple[Path, str], tmp_path: Path) -> None:
    if gpu_check.DRIVER_NODE.exists():
        pytest.skip("this machine has GPUs")
    workspace = fake_fork.workspace_in(built[0])
    options = SmokeOptions(device="gpu", timeout=60.0, cache=str(tmp_path / "weights"))
    found, _ = gpu_check.run(workspace, options)
    assert (found.verdict, found.device.kind) == ("inconclusive", "gpu")
    assert "this container sees no NVIDIA GPU" in found.checks[0].reason


def test_an_image_is_pulled_from_a_registry(
    tmp_path: Path, base: str, overrides: Overrides, registry_for_all: LocalRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as here:
        here.delenv("DOCKER_HOST")
        pushed = publish.build_and_push(
            pipeline.BuildRequest(
                fake_fork.make(tmp_path / "built", base), "gpu-check", overrides=overrides,
                registry=registry_for_all.address,
            )
        ).pushed  # fmt: skip
    assert pushed
    workspace = fake_fork.make(tmp_path / "elsewhere", base)
    for name in (pushed.by_digest, pushed.reference):
        options = SmokeOptions(name, "cpu", timeout=60.0, only=frozenset({"health"}))
        found, _ = gpu_check.run(workspace, options)
        assert found.image.digest == pushed.digest and found.checks[1].verdict == "pass"
    with pytest.raises(RegistryNotFoundError, match="was not found"):
        gpu_check.run(workspace, SmokeOptions(f"{pushed.reference}-x", "cpu"))


def test_what_is_no_image_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, says in (("", "no image was built yet"), (str(tmp_path / "folder"), "not an OCI"),
                       ("name", "is not an image in a registry")):  # fmt: skip
        with pytest.raises(UsageError, match=says):
            gpu_check.run(workspace, SmokeOptions(name, "cpu"))


def test_the_command(built: tuple[Path, str], tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "--search-root", str(PROJECT), "gpu-check",
         "--device=cpu", "--only=health", "--json", str(target)],
        capture_output=True, text=True, env=os.environ | {"HIGGS_FAKE_FORK": str(built[0])},
    )  # fmt: skip
    assert done.returncode == 41, done.stderr
    assert "verdict  inconclusive: required, but not decided" in done.stdout
    assert json.loads(target.read_bytes())["container"]["engine"] == "none"
