"""./inv start, status, logs, stop: the image of a fake fork on a real engine."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from higgs_image.build import image as build_image
from higgs_image.build.overrides import Overrides
from higgs_image.demo import fake_fork
from higgs_image.errors import EngineError, ServiceError, UsageError
from higgs_image.ports import free_port
from higgs_image.service import commands as service
from higgs_image.service.commands import ServiceOptions
from higgs_image.service.state import ServiceState
from higgs_image.smoke.image import last_built
from higgs_image.workspace import Workspace
from tests.engine.conftest import ForkMaker

pytestmark = pytest.mark.engine

NAME = f"higgs-service-test-{os.getpid()}"


@pytest.fixture(scope="module")
def workspace(
    tmp_path_factory: pytest.TempPathFactory, base: str, overrides: Overrides, fork_maker: ForkMaker
) -> Iterator[Workspace]:
    """A workspace whose last build is an image that the engine has."""
    made = fork_maker.make(tmp_path_factory.mktemp("service"), base)
    built = build_image.build(made, overrides=overrides)
    reference = build_image.load(made, built, overrides, "service-test")
    yield made
    subprocess.run(["docker", "image", "rm", "--force", reference], capture_output=True)


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    subprocess.run(["docker", "rm", "--force", NAME], capture_output=True)


def start(workspace: Workspace, *variables: str, **options: object) -> ServiceState:
    chosen = {"port": free_port(), "device": "cpu"} | options
    return service.start(
        workspace,
        ServiceOptions(name=NAME, variables=variables, **chosen),  # type: ignore[arg-type]
    )  # fmt: skip


def test_start_status_logs_stop(workspace: Workspace, tmp_path: Path) -> None:
    assert service.status(NAME) == ServiceState(NAME, "absent")
    assert "is not running: ./inv start" in service.status(NAME).text()
    started = start(workspace)
    assert started.state == "ready" and started.device == "cpu"
    assert service.status(NAME) == started
    assert f"url     {started.url}" in started.text()
    done = subprocess.run(["bash", "-c", started.curl], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hello.wav").read_bytes().startswith(b"RIFF")
    lines = list(service.logs(NAME))
    assert any("listening on" in line for line in lines)
    assert list(service.logs(NAME, last=1)) == lines[-1:]
    port = int(started.url.rpartition(":")[2])
    assert start(workspace, port=port) == started, "it runs already"
    for other in ({"port": free_port()}, {"port": port, "arguments": ("--seed=1",)}):
        with pytest.raises(UsageError, match="was started with other options"):
            start(workspace, **other)
    stopped = service.stop(NAME)
    assert (stopped.state, stopped.exit_code) == ("ended", 0)
    assert service.stop(NAME).state == service.status(NAME).state == "absent"


def test_the_curl_command_takes_the_key_from_the_environment(
    workspace: Workspace, tmp_path: Path
) -> None:
    started = start(workspace, "HIGGS_API_KEY=0123456789")
    assert "0123456789" not in started.text()
    done = subprocess.run(["bash", "-c", started.curl], cwd=tmp_path, capture_output=True,
                          env={"HIGGS_API_KEY": "0123456789", "PATH": "/usr/bin:/bin"})  # fmt: skip
    assert done.returncode == 0


def test_a_proxy_and_ipv6(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Path("/proc/net/if_inet6")
    if not known.exists() or "lo" not in known.read_text().split():
        pytest.skip("this machine has no IPv6")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    started = start(workspace, address="::1")
    assert started.url.startswith("http://[::1]:")
    done = subprocess.run(["bash", "-c", started.curl], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hello.wav").read_bytes().startswith(b"RIFF")


def test_following_the_log_ends_with_the_container(workspace: Workspace) -> None:
    start(workspace)
    stopping = threading.Timer(1.0, lambda: service.stop(NAME))
    stopping.start()
    assert any("stopping: " in line for line in service.logs(NAME, follow=True))
    stopping.join()


def test_not_waiting(workspace: Workspace) -> None:
    started = start(workspace, wait=False)
    assert started.state in ("loading", "ready")
    deadline = time.monotonic() + 60
    while service.status(NAME).state != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_container_that_cannot_start_says_why(workspace: Workspace) -> None:
    with pytest.raises(
        ServiceError, match=r"(?s)ended with 2 before.*HIGGS_MAX_MODEL_LEN is not valid: '1'"
    ):
        start(workspace, "HIGGS_MAX_MODEL_LEN=1")
    found = service.status(NAME)
    assert (found.state, found.exit_code) == ("ended", 2)
    assert "allowed: 512 to 131072" in found.text()
    assert start(workspace, arguments=("--max-model-len=4096",)).state == "ready"


def test_a_crashed_container_is_reported_and_replaced(workspace: Workspace) -> None:
    started = start(workspace)
    subprocess.run(["docker", "kill", NAME], check=True, capture_output=True)
    found = service.status(NAME)
    assert (found.state, found.exit_code) == ("ended", 137)
    assert "exit    137" in found.text()
    assert start(workspace, port=int(started.url.rpartition(":")[2])) == started


def test_refusals(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        start(workspace, device="tpu")
    with pytest.raises(EngineError, match="there is no image"):
        start(workspace, image="127.0.0.1:1/no/such:image")
    with pytest.raises(UsageError, match="no image was built yet"):
        start(fake_fork.make(tmp_path))
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(EngineError, match="refused to start"),
    ):
        start(workspace, port=taken.getsockname()[1])
    assert service.status(NAME).state == "absent"
    with pytest.raises(UsageError, match="there is no container"):
        list(service.logs(NAME))


def test_other_containers_are_kept(workspace: Workspace) -> None:
    started = start(workspace)
    with pytest.raises(UsageError, match=f"{NAME} runs"):
        start(workspace, image=f"service-test:{_tag()}")
    assert service.status(NAME) == started
    service.stop(NAME)
    image = last_built(workspace)
    subprocess.run(["docker", "run", "--detach", "--name", NAME, "--entrypoint", "sleep", image,
                    "60"], check=True, capture_output=True)  # fmt: skip
    for call in (service.status, service.stop):
        with pytest.raises(UsageError, match=r"was not started by ./inv start"):
            call(NAME)


def _tag() -> str:
    found = subprocess.run(["docker", "images", "--format", "{{.Tag}}", "service-test"],
                           check=True, capture_output=True, text=True)  # fmt: skip
    return found.stdout.split()[0]
