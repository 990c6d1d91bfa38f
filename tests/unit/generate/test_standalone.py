"""`./inv generate`: the service as a process of its own, before a server that runs elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from higgs_image.ports import free_port
from higgs_image.workspace import PROJECT
from tests.support.generate_service import GenerateRun


def generate(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "invoke", "generate", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HIGGS_")}
    return subprocess.Popen(
        command, cwd=PROJECT, env=environment | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_it_serves_and_finishes_at_a_signal(run: GenerateRun, tmp_path: Path) -> None:
    port = free_port()
    process = generate(
        "--server", f"http://127.0.0.1:{run.server_port}", "--port", str(port),
        HIGGS_GENERATE_JOBS_DIR=str(tmp_path / "own"),
    )  # fmt: skip
    try:
        assert process.stdout
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        url = f"http://127.0.0.1:{port}/generate"
        deadline = time.monotonic() + 30
        while True:
            try:
                body = json.dumps({"text": "Hello.", "response_format": "mp3"}).encode()
                with urllib.request.urlopen(url, body) as answer:
                    assert answer.headers["Content-Type"] == "audio/mpeg"
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [((), "no server is named"), (("--server", "localhost:8000"), "an http or https URL"),
     (("--server", "http://x", "--port", "0"), "--port")],
)  # fmt: skip
def test_what_cannot_be_used(arguments: tuple[str, ...], part: str) -> None:
    process = generate(*arguments)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and part in text
