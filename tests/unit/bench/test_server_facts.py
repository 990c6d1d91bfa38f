"""What is found out about a server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

import pytest

from higgs_image.bench import server_facts, session
from higgs_image.bench.options import BenchOptions
from higgs_image.bench.server_facts import ServerFacts, find_facts
from higgs_image.bench.target import Target
from higgs_image.errors import EngineError, NetworkError
from tests.support.http_server import BusyHTTPServer
from tests.support.paced_server import Pace, Plan, running

LOG = """\
higgs: image 20261127
higgs: starting the server: --max-num-seqs 64 --api-key abc123
INFO ready
"""


@pytest.fixture
def url() -> Iterator[str]:
    with running(Plan([Pace()])) as found:
        yield found


class Container:
    """A container as the engine's client gives it."""

    def __init__(self, port: str) -> None:
        self.attrs: dict[str, Any] = {
            "NetworkSettings": {"Ports": {"8000/tcp": [{"HostPort": port}], "22/tcp": None}},
            "Config": {"Image": "ghcr.io/o/i:t", "Cmd": ["--api-key", "abc123", "--seed=7"]},
        }
        digests = ["ghcr.io/o/i@sha256:" + "a" * 64]
        self.image = SimpleNamespace(id="sha256:b", attrs={"RepoDigests": digests})

    def logs(self, **_: Any) -> bytes:
        return LOG.encode()

    def exec_run(self, command: list[str]) -> SimpleNamespace:
        found = command[0] == "nvidia-smi"
        return SimpleNamespace(exit_code=0 if found else 1, output=b"NVIDIA L40S, 550.90\n")


def engine(*containers: Container) -> Any:
    @contextlib.contextmanager
    def client() -> Iterator[Any]:
        yield SimpleNamespace(containers=SimpleNamespace(list=lambda: list(containers)))

    return client


def test_container_behind_the_port_is_described_without_its_secrets(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Container(url.rpartition(":")[2])
    monkeypatch.setattr(server_facts, "docker_client", engine(Container("1"), mine))
    found = find_facts(url, ServerFacts(note="on loan"))
    assert found == ServerFacts(
        "0.8.3+paced", ["paced"], "ghcr.io/o/i:t", "sha256:" + "a" * 64, "NVIDIA L40S", 1, "550.90",
        ["--api-key ***", "--seed=7"],
        "higgs: starting the server: --max-num-seqs 64 --api-key ***", "on loan",
    )  # fmt: skip


def test_server_without_a_container_is_described_by_its_routes(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def none() -> Iterator[Any]:
        raise EngineError("no engine")
        yield

    monkeypatch.setattr(server_facts, "docker_client", none)
    found = find_facts(url, ServerFacts(gpu="NVIDIA L4"))
    assert found == ServerFacts("0.8.3+paced", ["paced"], gpu="NVIDIA L4")
    assert server_facts.voices(url) == ["belinda", "vex", "mabel", "chadwick"]


def test_no_server_is_an_error_with_a_hint() -> None:
    with pytest.raises(NetworkError) as error:
        server_facts.require_answer("http://127.0.0.1:9")
    assert error.value.hint == "start the server, or correct the URL"


@pytest.mark.parametrize("status", [502, 503, 504])
def test_server_that_cannot_serve_is_refused(status: int) -> None:
    class Loading(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"message": "the server is starting: loading the model"}'
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with BusyHTTPServer(("127.0.0.1", 0), Loading) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(NetworkError, match=f"answers {status}: .*loading the model") as error:
            session.run(BenchOptions(Target(url)))
        server.shutdown()
    assert "wait until it is ready" in str(error.value.hint)
