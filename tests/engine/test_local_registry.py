"""The registry on loopback."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from higgs_image.errors import RegistryUnavailableError
from higgs_image.host import local_registry
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.ports import is_free
from higgs_image.workspace import PROJECT

pytestmark = pytest.mark.engine


def status(registry: LocalRegistry) -> int:
    connection = http.client.HTTPConnection(registry.address, timeout=5)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status
    finally:
        connection.close()


def test_restart_uses_the_same_port(tmp_path: Path) -> None:
    with LocalRegistry(tmp_path) as registry:
        port = registry.port
        assert registry.address == f"127.0.0.1:{port}"
        assert status(registry) == 200
        registry.stop()
        assert is_free(port)
        registry.start()
        assert (registry.port, status(registry)) == (port, 200)
    assert is_free(port)
    registry.stop()  # twice does no harm


def test_login_is_required(tmp_path: Path) -> None:
    # user "tester", password "secret"
    (tmp_path / "htpasswd").write_text(
        "tester:$2b$04$JOAbiX3tJe6oMffFo45kweU7VHlM3Cj82qgik.LZByPIxgxBmk6nK\n"
    )
    with LocalRegistry(tmp_path / "registry", htpasswd=tmp_path / "htpasswd") as registry:
        assert status(registry) == 401
        connection = http.client.HTTPConnection(registry.address, timeout=5)
        connection.request("GET", "/v2/", headers={"Authorization": "Basic dGVzdGVyOnNlY3JldA=="})
        assert connection.getresponse().status == 200
        connection.close()


def test_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(RegistryUnavailableError, match=f"port {port} .* is in use"):
            LocalRegistry(tmp_path, port).start()


def test_failed_start_shows_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_registry, "_LEVEL", "nonsense")
    with pytest.raises(RegistryUnavailableError, match=r"(?s)exited with status.*nonsense"):
        LocalRegistry(tmp_path).start()


def test_registry_ends_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; "
        "from higgs_image.host.local_registry import LocalRegistry; "
        "r = LocalRegistry(Path(sys.argv[1])); r.start(); print(r.port, flush=True); time.sleep(99)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        port = int(child.stdout.readline())
        assert not is_free(port)
        child.send_signal(signal.SIGKILL)
    for _ in range(100):
        if is_free(port):
            return
        signal.sigtimedwait([], 0.1)
    pytest.fail("the registry is still there")
