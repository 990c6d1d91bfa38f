"""The smoke test on a real engine: the stand-in passes, every broken variant of it is caught."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest

from docker import DockerClient
from higgs_image import pipeline, standin
from higgs_image.errors import EngineError, UsageError
from higgs_image.render import Overrides
from higgs_image.smoke import checks, container, record, report
from higgs_image.smoke.record import Record
from higgs_image.smoke.run import Options, engine, run
from higgs_image.workspace import PROJECT, Workspace
from tests.broken import FAULTS, is_caught, variant

pytestmark = pytest.mark.engine

NEEDS_REAL_WEIGHTS = {"sound", "words"}

Smoke = Callable[..., Record]


@pytest.fixture(scope="module")
def client() -> Iterator[DockerClient]:
    with engine() as (found, _):
        yield found


@pytest.fixture(scope="module")
def image(
    tmp_path_factory: pytest.TempPathFactory, base: str, overrides: Overrides
) -> Iterator[str]:
    """The stand-in, built and loaded."""
    workspace = standin.make(tmp_path_factory.mktemp("smoke") / "standin", base)
    done = pipeline.run(pipeline.Request(workspace, "smoke-standin", overrides=overrides))
    assert done.engine
    yield done.engine
    subprocess.run(["docker", "image", "rm", "--force", done.engine], capture_output=True)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return standin.workspace_in(tmp_path)


@pytest.fixture
def smoke(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Smoke:
    """Return a function that smoke-tests a stand-in in less time."""
    monkeypatch.setattr(checks, "IDLE_SECONDS", 2.0)
    monkeypatch.setattr(checks, "STOP_SECONDS", 8)

    def test(image: str, **options: object) -> Record:
        chosen = {"device": "cpu", "random_weights": False, "environment": standin.ENVIRONMENT,
                  "patience": 6.0, "timeout": 60.0} | options  # fmt: skip
        found, folder = run(workspace, Options(image, **chosen))  # type: ignore[arg-type]
        assert record.load(folder / "record.json") == found
        return found

    return test


def containers(workspace: Workspace) -> list[str]:
    """Ids of all containers of this workspace's smoke tests."""
    found = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--no-trunc",
         "--filter", f"label={container.PLACE}={workspace.build}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return found.stdout.split()


def failed(found: Record) -> set[str]:
    return {check.name for check in found.checks if check.verdict == "fail"}


def test_the_stand_in_passes(image: str, smoke: Smoke, workspace: Workspace) -> None:
    found = smoke(image)
    assert found.passed, report.text(found)
    undecided = {check.name for check in found.checks if check.verdict == "inconclusive"}
    assert undecided == NEEDS_REAL_WEIGHTS
    assert found.image.digest and found.image.digest.startswith("sha256:")
    assert found.image.tag and found.image.lock_sha256
    assert found.device.kind == "cpu" and found.device.name
    assert found.container["exit_code"] == 0
    assert containers(workspace) == []
    folder = workspace.build / "smoke" / f"{found.image.digest[7:19]}-cpu"
    assert {"record.json", "report.md", "junit.xml", "server.log", "speech.wav", "speech.opus",
            "custom-voice.wav"} <= {path.name for path in folder.iterdir()}  # fmt: skip
    suite = xml.parse(folder / "junit.xml").getroot()
    assert suite.get("tests") == str(len(found.checks))
    assert suite.get("failures") == "0" and suite.get("skipped") == "2"
    assert "| pass | speech-wav |" in (folder / "report.md").read_text()
    assert json.loads((folder / "record.json").read_bytes())["verdict"] == "pass"


def test_a_proxy_in_between_changes_nothing(image: str, smoke: Smoke, client: DockerClient) -> None:
    with variant(client, image, "none") as same:
        assert smoke(same).passed


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_variant_is_caught(
    fault: str, image: str, smoke: Smoke, client: DockerClient, workspace: Workspace
) -> None:
    with variant(client, image, fault) as broken:
        found = smoke(broken)
    assert found.verdict == "fail"
    assert is_caught(fault, failed(found)), report.text(found)
    assert containers(workspace) == []
    if fault in ("does-not-start", "dies-after-first"):
        assert {check.verdict for check in found.checks[-3:]} == {"inconclusive"}
    else:
        assert {"start", "health"}.isdisjoint(failed(found))


def test_real_weights_are_listened_to(
    image: str, smoke: Smoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tone of the stand-in is good sound as well, when it counts."""
    real = checks.Context

    def context(server: container.Server, folder: Path, real_: bool) -> checks.Context:
        return real(server, folder, real=True)

    monkeypatch.setattr(
        "higgs_image.smoke.run.Context", lambda server, folder, real: context(server, folder, real)
    )
    found = smoke(image, only=frozenset({"speech-wav", "sound", "words", "memory"}))
    verdicts = {check.name: check.verdict for check in found.checks}
    assert verdicts["sound"] == "pass"
    assert verdicts["words"] == "inconclusive" and verdicts["memory"] == "pass"


def test_what_was_left_out_is_not_passed(image: str, smoke: Smoke) -> None:
    found = smoke(image, only=frozenset({"health"}))
    assert found.verdict == "inconclusive"
    assert "speech-wav" in found.reason
    with pytest.raises(UsageError, match="there is no check helth"):
        smoke(image, only=frozenset({"helth"}))


def test_an_image_that_is_not_there(smoke: Smoke) -> None:
    with pytest.raises(EngineError, match="there is no image"):
        smoke("127.0.0.1:1/nothing:here")


def test_a_gpu_that_is_not_there(image: str, smoke: Smoke, client: DockerClient) -> None:
    if "nvidia" in client.info()["Runtimes"]:
        pytest.skip("this machine has GPUs")
    found = smoke(image, device="gpu")
    assert failed(found) == {"start"}
    assert "no GPU" in found.checks[0].reason


def test_it_can_be_kept(image: str, smoke: Smoke, workspace: Workspace) -> None:
    found = smoke(image, only=frozenset({"stop"}), keep=True)
    kept = containers(workspace)
    try:
        assert kept == [found.container["id"]]
        smoke(image, only=frozenset({"stop"}))
        assert containers(workspace) == kept
    finally:
        subprocess.run(["docker", "rm", "--force", *kept], capture_output=True)


STUCK = """
import sys, time
from pathlib import Path
from higgs_image import standin
from higgs_image.smoke import checks, run
def stuck(context):
    print("up", flush=True)
    time.sleep(600)
run.CHECKS = (checks.Check("health", stuck),)
run.run(standin.workspace_in(Path(sys.argv[1])), run.Options(
    sys.argv[2], "cpu", random_weights=False, environment=standin.ENVIRONMENT))
"""


def start_stuck(folder: Path, image: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(folder), image],
        cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout and child.stdout.readline().strip() == "up"
    return child


def test_a_killed_runs_container_is_removed_by_the_next_and_nobody_elses(
    tmp_path: Path, image: str, smoke: Smoke, workspace: Workspace
) -> None:
    other = standin.workspace_in(tmp_path / "other")
    for place in (tmp_path, tmp_path / "other"):
        place.mkdir(exist_ok=True)
        with start_stuck(place, image) as child:
            child.send_signal(signal.SIGKILL)
    (mine,), others = containers(workspace), containers(other)
    try:
        assert len(others) == 1 and mine != others[0]
        smoke(image, only=frozenset({"health"}))
        assert containers(workspace) == []
        assert containers(other) == others
    finally:
        subprocess.run(["docker", "rm", "--force", mine, *others], capture_output=True)


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, image: str, workspace: Workspace) -> None:
    with start_stuck(tmp_path, image) as child:
        child.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert child.returncode not in (None, 0)
    assert containers(workspace) == []
