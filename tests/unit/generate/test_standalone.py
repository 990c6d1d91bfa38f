"""`./inv generate`: the service as a process of its own, before a server that runs elsewhere."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import wave
from pathlib import Path

import aiohttp
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


FIELDS = (
    '{"text": "Hello there.", "system_prompt": "Speak calmly.", "temperature": 0.5, '
    '"top_p": 0.95, "top_k": 50, "max_tokens": 2048}'
)
"""The origin's fields, with its defaults."""


def curl(url: str, body: str, *more: str) -> bytes:
    command = ["curl", "-sS", "--fail", "-X", "POST", url, "-H", "Content-Type: application/json"]
    return subprocess.run([*command, "-d", body, *more], capture_output=True, check=True).stdout


async def benchmark(url: str, requests: int, concurrent: int) -> list[tuple[int, str, bytes]]:
    """Ask as the origin's benchmark: so many requests, so many of them at once, with one client."""
    places = asyncio.Semaphore(concurrent)
    async with aiohttp.ClientSession() as session:

        async def one(number: int) -> tuple[int, str, bytes]:
            fields = {"text": f"This is request {number}."}
            async with places, session.post(url, json=fields) as answer:
                return answer.status, answer.headers["X-Generation-Time"], await answer.read()

        return await asyncio.gather(*map(one, range(requests)))


def test_it_serves_the_origins_clients_and_finishes_at_a_signal(
    run: GenerateRun, tmp_path: Path
) -> None:
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

        curl(url, FIELDS, "-o", str(tmp_path / "out.wav"), "-D", str(tmp_path / "head"))
        with wave.open(str(tmp_path / "out.wav")) as file:
            assert (file.getframerate(), file.getnchannels()) == (24_000, 1) and file.getnframes()
        names = {x.partition(":")[0].lower() for x in (tmp_path / "head").read_text().splitlines()}
        assert {"x-generation-time", "x-concurrent-requests", "x-mode"} <= names
        assert {"temperature": 0.5, "top_p": 0.95, "top_k": 50}.items() <= run.last.items()
        assert run.last["max_completion_tokens"] == 2048 and "Speak calmly." in str(run.last)
        batch = json.loads(curl(f"{url}/batch", f"[{FIELDS}, {FIELDS}]"))
        assert (batch["total"], batch["successful"], batch["failed"]) == (2, 2, 0)
        assert all(base64.b64decode(x["audio_base64"])[:4] == b"RIFF" for x in batch["results"])

        heard = asyncio.run(benchmark(url, requests=20, concurrent=5))
        assert all(x[0] == 200 and float(x[1]) >= 0 and x[2][:4] == b"RIFF" for x in heard)

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
