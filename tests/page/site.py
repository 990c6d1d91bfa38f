"""The page's whole site: the speech server's stand-in, the real service, and a wire that breaks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from aiohttp import web
from higgs_patches.lib.audio import containers
from numpy.typing import NDArray

from higgs_image import retry
from tests.support.speech_server import RATE, Behaviour, SpeechServer

KEY = "a-key-of-12345"
PLAIN_HOST = "higgs.test"
"""Another name of this machine: unlike loopback, browsers do not take it for secure."""
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docker/generate/higgs_generate/page"
BEHAVIOUR = Behaviour(speed=2.0, first=0.05)


class FormatServer(SpeechServer):
    """Answers in the format that is asked for, as the real server does."""

    async def _sound(
        self, request: web.Request, pcm: bytes, now: Behaviour, *, chat: bool
    ) -> web.StreamResponse:
        form = self.requests[-1].get("response_format", "pcm")
        if chat or form == "pcm":
            return await super()._sound(request, pcm, now, chat=chat)
        content = await containers.whole(pcm, form, speed=self.requests[-1].get("speed", 1.0))
        response = web.StreamResponse(headers={"Content-Type": f"audio/{form}"})
        await response.prepare(request)
        pieces = max(1, len(pcm) // 9600)
        for number in range(pieces):
            await asyncio.sleep(9600 / 2 / RATE / now.speed)
            await response.write(
                content[number * len(content) // pieces : (number + 1) * len(content) // pieces]
            )
        await response.write_eof()
        return response


class Site:
    """The service as a process, behind a relay whose connections can be broken.

    Args:
        folder: where long texts are kept.
        key: the service's API key; empty: none.

    Attributes:
        url: where a browser finds the page.
    """

    def __init__(self, folder: Path, key: str = "") -> None:
        self._folder = folder
        self._server = FormatServer(key, BEHAVIOUR)
        self._key = key
        self._loop = asyncio.new_event_loop()
        self._runners: list[web.AppRunner] = []
        self._wires: set[asyncio.StreamWriter] = set()
        self._service: subprocess.Popen[str] | None = None
        self._port = 0
        self.url = ""

    def __enter__(self) -> Self:
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        backend = self._run(self._serve())
        self._service = subprocess.Popen(
            [sys.executable, "-m", "higgs_generate", "--server", backend, "--port", "0"],
            stdout=subprocess.PIPE, text=True, env=self._environment(),
        )  # fmt: skip
        assert self._service.stdout
        line = self._service.stdout.readline()
        self._port = int(line.rpartition(":")[2])
        wait(self._listens)
        self.url = f"http://127.0.0.1:{self._run(self._relay())}/"
        return self

    def __exit__(self, *_: object) -> None:
        if self._service:
            self._service.kill()
            self._service.wait()
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _listens(self) -> bool:
        """Tell whether the service takes connections: it names its port a moment before."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port), timeout=5),
        ):
            return True
        return False

    def _environment(self) -> dict[str, str]:
        path = [ROOT / "docker/generate", ROOT / "docker/patches", *filter(None, sys.path)]
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "HIGGS_GENERATE_JOBS_DIR": str(self._folder),
            "HIGGS_GENERATE_LONG_SECONDS": "20",
            "HIGGS_GENERATE_PIECE_SECONDS": "6",
            "HIGGS_API_KEY": self._key,
        }

    def _run(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(timeout=30)

    async def _serve(self) -> str:
        runner = web.AppRunner(self._server.app(), shutdown_timeout=1)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _relay(self) -> int:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:  # at the end of the tests
            writer.close()
            return
        self._wires |= {writer, to_writer}
        with contextlib.suppress(asyncio.CancelledError):  # at the end of the tests
            await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))
        self._wires -= {writer, to_writer}

    # -- what a test says and asks -----------------------------------------------------------------

    def behave(self, **how: Any) -> None:
        """Set how the speech server answers from now on."""
        self._server.behaviour = replace(BEHAVIOUR, **how)

    def reset(self) -> None:
        """Forget what other tests have done."""
        self.behave()
        self._server.requests.clear()
        self._server.hung_up = 0
        for folder in self._folder.iterdir():
            shutil.rmtree(folder, ignore_errors=True)

    def break_connections(self) -> None:
        """Cut every connection between the browser and the service."""
        for wire in list(self._wires):
            self._loop.call_soon_threadsafe(wire.transport.abort)

    def speeches(self) -> list[dict[str, Any]]:
        """Return the requests for speech that have reached the server."""
        return [
            {name: value for name, value in request.items() if name not in ("headers", "path")}
            for request in self._server.requests
        ]

    def last_speech(self) -> dict[str, Any]:
        """Return the last one."""
        return self.speeches()[-1]

    def recording_sent(self) -> NDArray[np.int16]:
        """Return the recording of the last request."""
        body = str(self.last_speech())
        start = body.index("UklG")  # "RIFF" in base64
        content = base64.b64decode(body[start : body.index("'", start)])
        with wave.open(io.BytesIO(content)) as file:
            assert file.getparams()[:3] == (1, 2, RATE)
            return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")

    def wait_for_hang_up(self) -> None:
        """Wait until an answer was given up, and none is being made."""
        wait(lambda: self._server.hung_up > 0 and self._server.running == 0)

    def jobs(self) -> list[str]:
        """Return the ids of the long texts that the service keeps, newest first."""
        found = [x for x in self._folder.iterdir() if (x / "job.json").exists()]
        return [x.name for x in sorted(found, key=lambda x: -(x / "job.json").stat().st_mtime)]

    def job_sound(self) -> NDArray[np.int16]:
        """Return the sound of the newest long text, as the service keeps it."""
        url = f"{self.url}generate/jobs/{self.jobs()[0]}/audio?response_format=pcm"
        with urllib.request.urlopen(url) as answer:
            return np.frombuffer(answer.read(), dtype="<i2")


def wait(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    assert retry.wait_until(lambda: condition() or None, 30), "it was not so within 30 s"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def seconds_of(text: str) -> float:
    """Return how long the speech server speaks a text."""
    return len(text) * BEHAVIOUR.per_character
