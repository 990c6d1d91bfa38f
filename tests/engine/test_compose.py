"""deploy/compose*.yaml: parsed by Docker Compose, and run with the image of a fake fork."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from higgs_runtime import settings_table

from higgs_image.build import image as build_image
from higgs_image.build.overrides import Overrides
from higgs_image.ports import free_port
from higgs_image.smoke import cpu_device
from higgs_image.smoke.client import BrokenAnswerError, TimedClient
from higgs_image.smoke.device import FAKE_FORK
from higgs_image.workspace import PROJECT
from tests.engine.conftest import ForkMaker
from tests.support import debian

pytestmark = pytest.mark.engine

DEPLOY = PROJECT / "deploy"
VARIABLES = {row.name for row in settings_table.TABLE}
NAME = f"higgs-compose-test-{os.getpid()}"


def _has_compose() -> bool:
    return subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def _compose(machine: None) -> None:
    debian.require("docker-compose/trixie", _has_compose)


def compose(*arguments: str, files: tuple[Path, ...], **variables: str) -> str:
    command = ["docker", "compose", "--project-name", NAME]
    command += [part for file in files for part in ("--file", str(file))]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/"} | variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- parsed


def composed(*names: str, **variables: str) -> dict[str, Any]:
    """Return the service as Compose understands it."""
    said = compose("config", files=tuple(DEPLOY / name for name in names), **variables)
    found: dict[str, Any] = yaml.safe_load(said)["services"]["server"]
    return found


def test_gpu() -> None:
    found = composed("compose.yaml", IMAGE="x@sha256:abc", HIGGS_API_KEY="k")
    assert found["image"] == "x@sha256:abc"
    [device] = found["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["count"] == 1
    port = next(row.value for row in settings_table.TABLE if row.field == "port")
    assert found["ports"][0]["target"] == port and found["ports"][0]["host_ip"] == "127.0.0.1"
    assert [x["target"] for x in found["volumes"]] == ["/workspace"]
    assert found["environment"].keys() <= VARIABLES
    assert found["environment"]["HIGGS_API_KEY"] == "k"


def test_without_an_image_it_says_so() -> None:
    with pytest.raises(AssertionError, match="set IMAGE to the image's name"):
        composed("compose.yaml")


def test_cpu() -> None:
    files = ("compose.yaml", "compose.cpu.yaml")
    found = composed(*files, IMAGE="x", CPU_DEVICE="/d", CPU_WEIGHTS="/w")
    assert "deploy" not in found
    mounts = {x["source"]: (x["target"], x.get("read_only")) for x in found["volumes"]}
    assert mounts["/d"] == (cpu_device.DEVICE, True) and mounts["/w"] == (cpu_device.WEIGHTS, True)
    for name in ("PYTHONPATH", "HIGGS_DEVICE", "HF_HUB_CACHE"):
        assert found["environment"][name] == cpu_device.ENVIRONMENT[name]


# --- run


@pytest.fixture
def image(tmp_path: Path, base: str, overrides: Overrides, fork_maker: ForkMaker) -> Iterator[str]:
    workspace = fork_maker.make(tmp_path / "fake-fork", base)
    reference = build_image.load(
        workspace, build_image.build(workspace, overrides=overrides), overrides, NAME
    )
    yield reference
    subprocess.run(["docker", "image", "rm", "--force", reference], capture_output=True)


def test_the_server_runs_and_ends(image: str, tmp_path: Path) -> None:
    small = tmp_path / "small.yaml"  # the fake fork needs no device and no weights
    lines = "".join(f"      {name}: {value}\n" for name, value in FAKE_FORK.items())
    small.write_text(f"services:\n  server:\n    environment:\n{lines}")
    files = (DEPLOY / "compose.yaml", DEPLOY / "compose.cpu.yaml", small)
    port = free_port()
    variables = {"PORT": str(port), "IMAGE": image, "CPU_DEVICE": str(tmp_path),
                 "CPU_WEIGHTS": str(tmp_path)}  # fmt: skip
    try:
        compose("up", "--detach", files=files, **variables)
        deadline = time.monotonic() + 60
        while _status(port) != 200:
            assert time.monotonic() < deadline, compose("logs", files=files, **variables)
            time.sleep(0.1)
        compose("stop", files=files, **variables)
        assert "all requests have finished" in compose("logs", files=files, **variables)
        state = ["ps", "--all", "--format", "{{.State}} {{.ExitCode}}"]
        assert compose(*state, files=files, **variables).strip() == "exited 0"
    finally:
        compose("down", "--volumes", files=files, **variables)


def _status(port: int) -> int:
    try:
        return TimedClient(port, timeout=10).get("/ping").status
    except BrokenAnswerError:
        return 0
