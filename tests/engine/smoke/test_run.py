"""The smoke test on a real engine: the fake fork passes, and each flag works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest
from docker import DockerClient

from higgs_image.errors import EngineError, UsageError
from higgs_image.oci.container_spec import ContainerSpec
from higgs_image.smoke import record, report
from higgs_image.smoke.checks.model import ImageUnderTest
from higgs_image.workspace import PROJECT, Workspace
from tests.broken import variant
from tests.engine.smoke.conftest import Smoke, containers, failed

pytestmark = pytest.mark.engine

NEEDS_REAL_WEIGHTS = {"words", "gpu-memory"}


def test_the_fake_fork_passes(image: str, smoke: Smoke, workspace: Workspace) -> None:
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


def test_a_gpu_has_limits_of_its_own(
    image: str, smoke: Smoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noise of the CPU device is not speech."""

    def on_gpu(server: object, folder: Path, _: str) -> ImageUnderTest:
        return ImageUnderTest(server, folder, "gpu")  # type: ignore[arg-type]

    monkeypatch.setattr("higgs_image.smoke.runner.ImageUnderTest", on_gpu)
    found = smoke(image, only=frozenset({"speech-wav", "sound", "words", "memory"}))
    results = {check.name: check for check in found.checks}
    assert results["sound"].reason == "expected above_4_khz at most 0.5, got 0.915"
    assert results["sound"].measured["loudness"] == 0.0796
    assert results["words"].verdict == "inconclusive" and results["memory"].verdict == "pass"


def invoke(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `./inv smoke` as a person does, with a fake fork as the product."""
    return subprocess.run(
        [sys.executable, "-m", "invoke", "--search-root", str(PROJECT), "smoke", *words],
        capture_output=True, text=True, env=os.environ | {"HIGGS_FAKE_FORK": str(folder)},
    )  # fmt: skip


def test_the_command(built: tuple[Path, str], tmp_path: Path) -> None:
    folder, image = built
    files = [tmp_path / "out" / "r.json", tmp_path / "out" / "j.xml"]
    done = invoke(folder, image, "--device=cpu", "--json", str(files[0]), "--junit", str(files[1]))
    assert done.returncode == 0, done.stderr
    assert "verdict  pass" in done.stdout and "open     words, gpu-memory" in done.stdout
    assert record.load(files[0]).passed
    assert xml.parse(files[1]).getroot().get("failures") == "0"


def test_the_command_takes_the_image_that_was_built_last(built: tuple[Path, str]) -> None:
    done = invoke(built[0], "--only", "models", "--timeout", "60")
    assert done.returncode == 41, done.stderr
    assert "verdict  inconclusive: required, but not decided: health, " in done.stdout


@pytest.mark.parametrize(
    "name", ["127.0.0.1:1/nothing:here", "-", "sha256:" + 64 * "0", "a//b", "é"]
)
def test_an_unknown_image_is_an_engine_error(name: str, built: tuple[Path, str]) -> None:
    done = invoke(built[0], "--device", "cpu", f"--image={name}")
    assert done.returncode == 20, done.stderr
    assert f"error: there is no image {name}: " in done.stderr and "hint: " in done.stderr


def test_a_name_that_no_image_has_is_a_usage_error(built: tuple[Path, str]) -> None:
    done = invoke(built[0], "--device", "cpu", "--image=NOT A NAME")
    assert done.returncode == 2, done.stderr
    assert "error: --image: expected the name or digest of an image, got" in done.stderr


def test_other_names_of_an_image(image: str, smoke: Smoke, client: DockerClient) -> None:
    """By its digest, by the beginning of that, and without its tag."""
    digest = str(client.images.get(image).id)
    repository, _, tag = image.rpartition(":")
    assert client.images.get(image).tag(repository, "latest") and tag
    try:
        for name in (digest, digest[7:19], repository):
            found = smoke(name, only=frozenset({"health"}))
            assert found.image.digest == digest and not failed(found)
    finally:
        client.images.remove(f"{repository}:latest")


def test_what_was_left_out_is_not_passed(image: str, smoke: Smoke) -> None:
    found = smoke(image, only=frozenset({"health"}))
    assert found.verdict == "inconclusive"
    assert "speech-wav" in found.reason
    with pytest.raises(UsageError, match="unknown check: helth"):
        smoke(image, only=frozenset({"helth"}))


def test_an_image_that_is_not_there(smoke: Smoke) -> None:
    with pytest.raises(EngineError, match="there is no image"):
        smoke("127.0.0.1:1/nothing:here")


def test_a_gpu_that_is_not_there(image: str, smoke: Smoke, client: DockerClient) -> None:
    if "nvidia" in client.info()["Runtimes"]:
        pytest.skip("this machine has GPUs")
    found = smoke(image, device="gpu")
    assert found.verdict == "inconclusive" and not failed(found)
    assert found.checks[0].reason.startswith(
        'there is no GPU or no driver (could not select device driver "" with capabilities: '
    )


def test_nothing_is_kept_of_what_the_engine_did_not_start(
    image: str, smoke: Smoke, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ContainerSpec.settings
    monkeypatch.setattr(
        ContainerSpec, "settings", lambda self: before(self) | {"devices": ["/dev/nothing"]}
    )
    with pytest.raises(EngineError, match=r"the engine refused: .*/dev/nothing"):
        smoke(image, keep=True)
    assert containers(workspace) == []


def test_it_can_be_kept(image: str, smoke: Smoke, workspace: Workspace) -> None:
    found = smoke(image, only=frozenset({"stop"}), keep=True)
    kept = containers(workspace)
    try:
        assert kept == [found.container["id"]]
        smoke(image, only=frozenset({"stop"}))
        assert containers(workspace) == kept
    finally:
        subprocess.run(["docker", "rm", "--force", *kept], capture_output=True)
