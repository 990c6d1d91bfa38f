"""Addresses in the log and for the HEALTHCHECK, and the HEALTHCHECK itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from higgs_runtime import address, health, settings
from higgs_runtime.settings import Settings

from tests.unit.runtime.conftest import IMAGE


def read(*arguments: str, **variables: str) -> Settings:
    return settings.read(list(arguments), variables, IMAGE)


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


VAST = {"VAST_CONTAINERLABEL": "C.1"}
VAST_PORT = VAST | {"PUBLIC_IPADDR": "1.2.3.4", "VAST_TCP_PORT_8000": "40123"}


@pytest.mark.parametrize(
    ("arguments", "variables", "warning"),
    [
        ((), {}, "anyone who can reach this port can use http://localhost:8000"),
        ((), {"RUNPOD_POD_ID": "abc"}, "anyone on the internet can use https://abc-8000.proxy"),
        ((), VAST, "anyone on the internet can use http://localhost:8000"),
        ((), VAST_PORT, "internet can use http://1.2.3.4:40123"),
        ((), {"HIGGS_API_KEY": "0123456789"}, ""),
        (("--api-key", "0123456789"), {}, ""),
        ((), {"VLLM_API_KEY": "x"}, ""),
        (("--host", "127.0.0.1"), {}, ""),
    ],
)
def test_missing_api_key_is_a_warning(
    arguments: tuple[str, ...],
    variables: dict[str, str],
    warning: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address.warn_if_open(read(*arguments, **variables), variables)
    log = capsys.readouterr().out
    assert warning in log if warning else log == ""
    assert "set HIGGS_API_KEY" in log if warning else True


def test_curl_command() -> None:
    line = address.curl_command(read("--port", "9000", "--served-model-name", "mine", "other"), {})
    assert line.startswith("curl http://localhost:9000/v1/audio/speech -H 'Content-Type")
    assert '"model": "mine"' in line
    for variables in ({"HIGGS_API_KEY": "0123456789"}, {"VLLM_API_KEY": "0123456789"}):
        line = address.curl_command(read(**variables), variables)
        assert "Bearer YOUR_API_KEY" in line and "0123456789" not in line


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
def test_url_for_the_health_check(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], expected: str
) -> None:
    address.write_ping_url(read(*arguments, **variables))
    assert address.ping_file().read_text() == expected + "\n"
    assert address.ping_file().parent == tmp_path


def test_health_check_falls_back_to_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address.ping_file().mkdir()
    address.write_ping_url(read())
    monkeypatch.setattr(health, "DEFAULT", "http://127.0.0.1:1/ping")
    assert health.main() == 1
    assert "http://127.0.0.1:1/ping" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "code"), [(200, 0), (204, 1), (503, 1)])
def test_only_200_is_healthy(monkeypatch: pytest.MonkeyPatch, status: int, code: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address.ping_file().write_text(f"http://127.0.0.1:{server.server_port}/ping\n")
        for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):  # must not be used
            monkeypatch.setenv(variable, "http://127.0.0.1:1")
        assert health.main() == code


def test_health_check_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "higgs_runtime.health"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
