"""The entrypoint as a process, with a fake speech server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from higgs_image.ports import free_port
from higgs_image.workspace import PROJECT

SERVER = PROJECT / "tests/unit/runtime/server"
TIMEOUT = 60.0


class Entrypoint:
    """The entrypoint, running."""

    def __init__(self, image_file: Path, arguments: tuple[str, ...], variables: dict[str, str]):
        self.port = free_port()
        models = image_file.parent / "weights"
        models.mkdir(exist_ok=True)
        (models / "bosonai/hubert").mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{PROJECT / 'docker/runtime'}:{SERVER}",
            "PYTHONUNBUFFERED": "1",
            "HOME": str(image_file.parent),
            "HIGGS_IMAGE_FILE": str(image_file),
            "HIGGS_DEVICE": "cpu",
            "HIGGS_MODEL": str(models),
            "HIGGS_AUDIO_TOKENIZER": str(models),
            "PORT": str(self.port),
        }
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "higgs_runtime", "--host", "127.0.0.1", *arguments],
            env=environment | variables, cwd=models, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, what: str | Callable[[], bool]) -> None:
        """Wait for a line of the log, or until a function returns True."""
        deadline = time.monotonic() + TIMEOUT
        while not (what in self.log if isinstance(what, str) else what()):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def ask(
        self, path: str, value: object = None, port: int = 0, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=30)
        try:
            body = None if value is None else json.dumps(value)
            connection.request("POST" if body else "GET", path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ping(self, port: int = 0) -> int:
        return self.ask("/ping", port=port)[0]

    def left(self) -> list[int]:
        """Processes started from here that still run, in any process group."""
        mark = f"PORT={self.port}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0") and alive(int(path.parent.name)):
                    found.append(int(path.parent.name))
        return found

    def end(self) -> int:
        code = self.process.wait(TIMEOUT)
        self._reader.join()
        return code

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    @property
    def engine(self) -> int:
        self.wait_for("\nengine ")
        [line] = [line for line in self.lines if line.startswith("engine ")]
        return int(line.split()[1])


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # also if it exits while it is read
        return False
    return state != "Z"


MakeEntrypoint = Callable[..., Entrypoint]


def patched(
    monkeypatch: pytest.MonkeyPatch, before: str, make: Callable[[], Entrypoint]
) -> Entrypoint:
    """Run some lines of Python before the entrypoint."""
    script = f"{before}\nimport os, sys\nfrom higgs_runtime import __main__ as start\n"
    script += "sys.exit(start.main(sys.argv[1:], os.environ))"
    popen = subprocess.Popen

    def changed(command: list[str], **keywords: Any) -> Any:
        return popen([command[0], "-c", script, *command[3:]], **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", changed)
        return make()


def speech(pieces: int = 1, pause: float = 0.0) -> dict[str, Any]:
    return {"model": "m", "voice": "v", "input": "t", "response_format": "pcm",
            "pieces": pieces, "pause": pause}  # fmt: skip
