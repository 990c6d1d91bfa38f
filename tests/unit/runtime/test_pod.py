"""What platforms expect: warnings, addresses, the health check, and SSH where it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from higgs_runtime import health, pod, settings
from higgs_runtime.errors import BadSetting
from higgs_runtime.settings import Settings

from tests.unit.runtime.conftest import IMAGE


def read(*arguments: str, **variables: str) -> Settings:
    return settings.read(list(arguments), variables, IMAGE)


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        ((), {}, "whoever reaches this port can use http://localhost:8000"),
        ((), {"RUNPOD_POD_ID": "abc"}, "anybody on the internet can use https://abc-8000.proxy"),
        (
            (),
            {"VAST_CONTAINERLABEL": "C.1"},
            "anybody on the internet can use http://localhost:8000",
        ),
        (
            (),
            {
                "VAST_CONTAINERLABEL": "C.1",
                "PUBLIC_IPADDR": "1.2.3.4",
                "VAST_TCP_PORT_8000": "40123",
            },
            "internet can use http://1.2.3.4:40123",
        ),
        ((), {"HIGGS_API_KEY": "0123456789"}, ""),
        (("--api-key", "0123456789"), {}, ""),
        ((), {"VLLM_API_KEY": "x"}, ""),
        (("--host", "127.0.0.1"), {}, ""),
    ],
)
def test_a_server_without_a_key_is_warned_of(
    arguments: tuple[str, ...],
    variables: dict[str, str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pod.warn_if_open(read(*arguments, **variables), variables)
    said = capsys.readouterr().out
    assert says in said if says else said == ""
    assert "HIGGS_API_KEY" in said if says else True


def test_curl() -> None:
    line = pod.curl(read("--port", "9000", "--served-model-name", "mine", "other"), {})
    assert line.startswith("curl http://localhost:9000/v1/audio/speech -H 'Content-Type")
    assert '"model": "mine"' in line
    for variables in ({"HIGGS_API_KEY": "0123456789"}, {"VLLM_API_KEY": "0123456789"}):
        line = pod.curl(read(**variables), variables)
        assert "Bearer YOUR_API_KEY" in line and "0123456789" not in line


def test_shared_memory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pod.check_shared_memory("/proc")  # a file system without any space
    assert "several GPUs need 1 GB" in capsys.readouterr().out
    pod.check_shared_memory(str(tmp_path))
    pod.check_shared_memory("/no/such/folder")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("keys", "sshd", "says"),
    [
        ("ssh-ed25519 AAAA me", "/no/such/sshd", "it is not installed"),
        ("nonsense", sys.executable, "PUBLIC_KEY is no list of public keys"),
    ],
)
def test_ssh_that_cannot_be_started_is_a_warning(
    keys: str, sshd: str, says: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(pod, "SSHD", sshd)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    pod.start_sshd(keys, home=tmp_path)
    assert f"sshd was not started: {says}" in capsys.readouterr().out
    assert not (tmp_path / ".ssh").exists()


def test_keys_are_written_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any length, with line ends of Windows, and names in whatever encoding; none twice."""
    commands: list[str] = []
    monkeypatch.setattr(pod, "SSHD", sys.executable)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(pod, "_run", lambda *command: commands.append(command[0]))
    long = "ssh-rsa " + 60_000 * "A" + " long"
    foreign = os.fsdecode(b"ssh-ed25519 AAAA M\xfcller")
    for keys in (f"{long}\r\n{foreign}\r\n\r\n", long):
        pod.start_sshd(keys, home=tmp_path)
    written = (tmp_path / ".ssh/authorized_keys").read_bytes()
    assert written == f"{long}\n".encode() + b"ssh-ed25519 AAAA M\xfcller\n"
    assert sys.executable in commands


# --- the health check


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_container_without_a_temporary_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError

    pod.require_temporary_folder()
    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(BadSetting, match="nothing can be written in /tmp") as caught:
        pod.require_temporary_folder()
    assert "--tmpfs /tmp" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        ((), {}, "http://127.0.0.1:8000/ping"),
        ((), {"PORT": "80"}, "http://127.0.0.1:80/ping"),
        ((), {"PORT_HEALTH": "81"}, "http://127.0.0.1:81/ping"),
        (("--host", "::"), {}, "http://[::1]:8000/ping"),
        (("--host", "10.0.0.7"), {}, "http://10.0.0.7:8000/ping"),
        (("--ssl-certfile", "x"), {}, "https://127.0.0.1:8000/ping"),
        (("--ssl-certfile", "x"), {"PORT_HEALTH": "81"}, "http://127.0.0.1:81/ping"),
    ],
)
def test_what_is_left_for_the_health_check(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], expected: str
) -> None:
    pod.write_ping_address(read(*arguments, **variables))
    assert pod.ping_file().read_text() == expected + "\n"
    assert pod.ping_file().parent == tmp_path


def test_without_an_address_the_default_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pod.ping_file().mkdir()
    pod.write_ping_address(read())
    monkeypatch.setattr(health, "DEFAULT", "http://127.0.0.1:1/ping")
    assert health.main() == 1
    assert "http://127.0.0.1:1/ping" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "code"), [(200, 0), (204, 1), (503, 1)])
def test_health_is_200_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        pod.ping_file().write_text(f"http://127.0.0.1:{server.server_port}/ping\n")
        for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):  # asks itself, not a proxy
            monkeypatch.setenv(variable, "http://127.0.0.1:1")
        assert health.main() == code


def test_the_health_check_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "higgs_runtime.health"], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
