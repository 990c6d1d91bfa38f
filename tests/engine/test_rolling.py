"""deploy/haproxy.cfg: servers behind Debian's HAProxy are replaced under load; nothing fails."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from higgs_image.build import image as build_image
from higgs_image.build.overrides import Overrides
from higgs_image.ports import free_port
from higgs_image.service import commands as service
from higgs_image.service.commands import ServiceOptions
from higgs_image.smoke.client import BrokenAnswerError, TimedClient
from higgs_image.workspace import PROJECT, Workspace
from tests.engine.conftest import ForkMaker
from tests.support import debian

pytestmark = pytest.mark.engine

NAMES = [f"higgs-rolling-{x}-{os.getpid()}" for x in ("first", "second")]
BODY = {"model": "higgs-audio-v2", "response_format": "pcm",
        "input": "One after the other, under load."}  # fmt: skip
CONFIG = PROJECT / "deploy" / "haproxy.cfg"
LISTENERS = 6
SECONDS = 60


def _haproxy() -> str | None:
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Balancer:
    """HAProxy before two servers of this machine."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.port, self._socket = free_port(), folder / "haproxy.sock"
        there = {"HAPROXY_BIND": f"127.0.0.1:{self.port}", "HAPROXY_SOCKET": str(self._socket),
                 "FIRST": f"127.0.0.1:{ports[0]}", "SECOND": f"127.0.0.1:{ports[1]}"}  # fmt: skip
        command = [str(_haproxy()), "-db", "-f", str(CONFIG)]
        self._process = subprocess.Popen(command, env=os.environ | there)

    def set_state(self, server: str, state: str) -> None:
        self._ask(f"set server servers/{server} state {state}")

    def wait_until_up(self, server: str) -> None:
        deadline = time.monotonic() + SECONDS
        while (found := self._status(server)) != "UP":
            assert time.monotonic() < deadline, f"{server} is {found}"
            time.sleep(0.1)

    def _status(self, server: str) -> str:
        try:
            heads, *rows = [x.lstrip("# ").split(",") for x in self._ask("show stat").splitlines()]
        except OSError:
            return "not there"
        found = [dict(zip(heads, row, strict=False)) for row in rows]
        return next(x["status"] for x in found if x.get("svname") == server)

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self._socket))
            admin.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: admin.recv(65_536), b"")).decode()

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


class Load:
    """Listeners that ask without a pause, and what each of them got."""

    def __init__(self, port: int) -> None:
        self.answers: Counter[str] = Counter()
        self._port, self._over, self._lock = port, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(LISTENERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        client = TimedClient(self._port, timeout=SECONDS)
        while not self._over.is_set():
            try:
                answer = client.post("/v1/audio/speech", BODY)
                got = f"{answer.status}: {len(answer.body)} bytes"
            except BrokenAnswerError as error:
                got = str(error)
            with self._lock:
                self.answers[got] += 1


@pytest.fixture(scope="module")
def workspace(
    tmp_path_factory: pytest.TempPathFactory, base: str, overrides: Overrides, fork_maker: ForkMaker
) -> Iterator[Workspace]:
    debian.require("haproxy", lambda: _haproxy() is not None)
    made = fork_maker.make(tmp_path_factory.mktemp("rolling"), base)
    built = build_image.build(made, overrides=overrides)
    reference = build_image.load(made, built, overrides, "rolling-test")
    yield made
    subprocess.run(["docker", "image", "rm", "--force", reference], capture_output=True)


@pytest.fixture
def ports(workspace: Workspace) -> Iterator[list[int]]:
    """Ports of two servers that are ready."""
    found = [free_port() for _ in NAMES]
    try:
        for name, port in zip(NAMES, found, strict=True):
            start(workspace, name, port)
        yield found
    finally:
        for name in NAMES:
            subprocess.run(["docker", "rm", "--force", name], capture_output=True)


def start(workspace: Workspace, name: str, port: int) -> str:
    service.start(workspace, ServiceOptions(name=name, port=port, device="cpu"))
    command = ["docker", "inspect", "--format", "{{.Id}}", name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def replace_both(
    workspace: Workspace, ports: list[int], folder: Path, *, drain: bool
) -> Counter[str]:
    """Replace one server after the other under load, and return what the listeners got."""
    balancer = Balancer(folder, ports)
    try:
        for server in ("first", "second"):
            balancer.wait_until_up(server)
        with Load(balancer.port) as load:
            for server, name, port in zip(("first", "second"), NAMES, ports, strict=True):
                time.sleep(2)
                if drain:
                    balancer.set_state(server, "drain")
                stopped = service.stop(name)
                assert stopped.exit_code == 0, "it has finished what ran"
                start(workspace, name, port)
                balancer.set_state(server, "ready")
                balancer.wait_until_up(server)
            time.sleep(2)
    finally:
        balancer.end()
    return load.answers


def test_a_rolling_replacement_fails_no_request(
    workspace: Workspace, ports: list[int], tmp_path: Path
) -> None:
    answers = replace_both(workspace, ports, tmp_path, drain=True)
    print(f"answers: {dict(answers)}")
    assert len(answers) == 1, answers
    [(answer, count)] = answers.items()
    assert answer.startswith("200: ") and not answer.endswith(": 0 bytes")
    assert count > 5 * LISTENERS


@pytest.mark.flaky(reruns=3, only_rerun="AssertionError")
def test_the_measurement_sees_failures(
    workspace: Workspace, ports: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is stopped at once, without a drain and without a second try, fails some."""
    config = tmp_path / "haproxy.cfg"
    lines = CONFIG.read_text().splitlines(keepends=True)
    config.write_text("".join(x for x in lines if "retry-on" not in x))
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", config)
    answers = replace_both(workspace, ports, tmp_path, drain=False)
    assert [x for x in answers if not x.startswith("200: ")], answers
