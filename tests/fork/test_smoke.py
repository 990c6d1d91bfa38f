"""The smoke test of the real image on the CPU: it passes, and every broken variant is caught."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from higgs_image import lockfile
from higgs_image.build import pipeline
from higgs_image.build.overrides import Overrides
from higgs_image.demo import demo
from higgs_image.host import base_image
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.oci.daemon import docker_client
from higgs_image.smoke import audio, cpu_device, runner, session
from higgs_image.smoke import container as smoke_container
from higgs_image.smoke.checks.model import ImageUnderTest
from higgs_image.smoke.record import Record
from higgs_image.workspace import Workspace
from tests.broken import FAULTS, TRANSFORMERS_5, is_caught, variant
from tests.support.hub_server import Failure, Server
from tests.support.smoke_checks import NAMES, expect

pytestmark = [pytest.mark.fork, pytest.mark.timeout(2400)]

SITE = "/opt/venv/lib/python3.11/site-packages"


@pytest.fixture(scope="module")
def client(report: pipeline.BuildReport) -> Iterator[DockerClient]:
    with docker_client() as found:
        yield found


@pytest.fixture(scope="module")
def image(report: pipeline.BuildReport, client: DockerClient, workspace: Workspace) -> str:
    """The real image; weights for the CPU are made in it, as a broken one might not be able to."""
    assert report.engine
    cpu_device.weights(client, workspace, report.engine, lockfile.load(workspace.lock_file))
    return report.engine


@pytest.fixture(scope="module")
def record(workspace: Workspace, image: str) -> Record:
    return session.run(workspace, session.SmokeOptions(image, "cpu", timeout=600))[0]


@pytest.mark.parametrize("name", NAMES)
def test_check(name: str, record: Record) -> None:
    expect(record, name)


def test_the_record_names_the_very_image(record: Record, report: pipeline.BuildReport) -> None:
    assert record.passed, record.reason
    assert record.image.digest == report.digest
    assert record.image.lock_sha256
    assert record.device.kind == "cpu"


FROM_THE_START = {"does-not-start", "no-custom-voice", "dies-after-first", "ignores-sigterm"}


@pytest.mark.parametrize("fault", sorted(FROM_THE_START))
def test_a_broken_variant_is_caught(
    fault: str, image: str, client: DockerClient, workspace: Workspace
) -> None:
    with variant(client, image, fault) as broken:
        made = FAULTS[fault].failing | NEIGHBOURS
        options = session.SmokeOptions(broken, "cpu", timeout=600, only=frozenset(made))
        found, _ = session.run(workspace, options)
    assert found.verdict == "fail"
    failed = {check.name for check in found.checks if check.verdict == "fail"}
    assert is_caught(fault, failed), found.reason


NEIGHBOURS = {"health", "models", "speech-pcm", "speech-wav", "speech-mp3", "bad-requests"}
"""Quick checks that run for each fault, and fail only where they have to."""


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, r"status 21 before it was healthy: the hub requires a login for \S+, .*set HF_TOKEN"),
        (404, r"status 22 before it was healthy: the hub does not have \S+ at \w+ \(404\); hint: "),
    ],
)
def test_a_refusal_of_the_hub_is_reported(
    status: int, reason: str, image: str, client: DockerClient, workspace: Workspace
) -> None:
    gateway = client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    hub = Server(gateway)
    hub.hub.failures.append(Failure("/api/models/", status))
    asks = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": "/tmp/hub"}
    try:
        found, _ = session.run(workspace, session.SmokeOptions(image, "cpu", environment=asks))
    finally:
        hub.shutdown()
    assert hub.hub.asked and found.verdict == "fail"
    assert re.search(reason, found.checks[0].reason), found.checks[0].reason
    assert found.seconds < 60


@pytest.fixture
def unpatched(
    workspace: Workspace, report: pipeline.BuildReport, registry: LocalRegistry
) -> Iterator[str]:
    """The real image without any of the patches."""
    patches = lockfile.load(workspace.lock_file).patches
    assert patches
    base = base_image.publish(base_image.ensure(workspace), registry.address)
    usual = Overrides(base_image=base, extra_ca=demo.environment_ca(os.environ))
    bare = dataclasses.replace(usual, without=tuple(patches.sha256))

    def build(overrides: Overrides) -> pipeline.BuildReport:
        return pipeline.run(
            pipeline.BuildRequest(workspace, "fork-test", compression="zstd", overrides=overrides)
        )

    made = build(bare).engine
    assert made
    yield made
    subprocess.run(["docker", "image", "rm", made], capture_output=True)
    build(usual)  # the layout of the others


def test_without_the_patches_their_checks_fail(unpatched: str, workspace: Workspace) -> None:
    """Containers and types of speech, three formats, bad requests, and the idle server.

    It starts without flags thanks to the entrypoint, which gives the server paths.
    """
    found, _ = session.run(workspace, session.SmokeOptions(unpatched, "cpu", timeout=600))
    assert found.verdict == "fail"
    assert {check.name for check in found.checks if check.verdict == "fail"} == {
        "speech-pcm", "speech-wav", "speech-mp3", "speech-flac", "speech-opus", "speech-aac",
        "texts", "streaming", "at-once", "listeners", "custom-voice", "bad-requests", "idle-cpu",
    }  # fmt: skip


@pytest.fixture
def transformers_5(image: str, client: DockerClient, tmp_path: Path) -> Iterator[str]:
    """The image with the next major version of transformers and what that needs."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target",
         str(tmp_path / "site"), "--python-version", "3.11", "--only-binary", ":all:",
         "transformers>=5,<6"],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip(f"transformers 5 cannot be installed: {done.stderr[-300:]}")
    wanted = ("transformers", "huggingface_hub", "tokenizers")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in sorted((tmp_path / "site").iterdir()):
            if not path.name.startswith("numpy"):  # PyTorch is built for the one that is there
                tar.add(path, path.name)
    patterns = " ".join(f"{SITE}/{name} {SITE}/{name}-*" for name in wanted)
    container = client.containers.create(image, entrypoint=["sh", "-c", f"rm -rf {patterns}"])
    before = client.images.get(image).attrs["Config"]
    try:
        container.start()
        assert container.wait()["StatusCode"] == 0
        container.put_archive(SITE, archive.getvalue())
        config = {"Entrypoint": before["Entrypoint"], "Cmd": before["Cmd"] or []}
        container.commit("smoke-test-transformers-5", "latest", conf=config)
    finally:
        container.remove(force=True)
    yield "smoke-test-transformers-5:latest"
    client.images.remove("smoke-test-transformers-5:latest", force=True)


def test_transformers_5_is_caught(transformers_5: str, workspace: Workspace) -> None:
    found, folder = session.run(workspace, session.SmokeOptions(transformers_5, "cpu", timeout=600))
    assert found.verdict == "fail"
    failed = {check.name for check in found.checks if check.verdict == "fail"}
    assert failed == TRANSFORMERS_5.failing
    assert "transformers 5 is installed, the fork needs 4" in found.checks[0].reason
    assert "all_special_tokens_extended" in (folder / "server.log").read_text()


@pytest.fixture(scope="module")
def proxied(
    image: str, client: DockerClient, workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[smoke_container.ServerContainer]:
    """The real image behind the proxy, to which one fault after the other is given."""
    folder = tmp_path_factory.mktemp("proxied")
    with variant(client, image, "none") as made:
        options = session.SmokeOptions(made, "cpu")
        spec = session.tested_spec(client, workspace, options, made, "cpu", folder)
        with smoke_container.created(spec) as handle:
            yield smoke_container.start(handle, 600)[0]


LAST = {"hangs"}
"""Its requests stay open."""


@pytest.mark.parametrize("fault", [*sorted(FAULTS.keys() - FROM_THE_START - LAST), *LAST])
def test_a_fault_that_comes_later_is_caught(
    fault: str, proxied: smoke_container.ServerContainer, tmp_path: Path
) -> None:
    proxied.container.exec_run(["sh", "-c", f"echo {fault} > /fault"])
    timeout = 60.0 if fault == "slow-mp3" else 10.0
    proxied.client = dataclasses.replace(proxied.client, timeout=timeout)
    only = FAULTS[fault].failing | NEIGHBOURS
    if "formats" in only:  # it compares all of them
        only |= {f"speech-{form}" for form in audio.FORMATS}
    found = runner.run_checks(ImageUnderTest(proxied, tmp_path, "cpu"), frozenset(only))
    failed = {check.name: check.reason for check in found if check.verdict == "fail"}
    assert is_caught(fault, set(failed)), failed
