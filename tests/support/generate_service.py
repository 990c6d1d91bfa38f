"""The service of /generate before a small speech server, both in one thread, with real sockets."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn
from aiohttp import web
from higgs_generate import settings
from higgs_generate.app import GenerateApp
from higgs_generate.http_protocol import GenerateProtocol
from higgs_generate.service import Service
from higgs_generate.statistics import Statistics
from higgs_generate.voices import VoiceList

from tests.support.speech_server import SpeechServer

TIMEOUT = 30.0


@dataclass
class Answered:
    """An answer of the service."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ClientConnection(http.client.HTTPConnection):
    """A connection to the service, with the answer that GenerateRun.begin began to read."""

    answer: http.client.HTTPResponse


class GenerateRun:
    """Both servers, running; variables set the settings of the service."""

    def __init__(self, folder: Path, variables: dict[str, str], server_key: str = "") -> None:
        self.server = SpeechServer(server_key)
        self._variables = {"HIGGS_GENERATE_JOBS_DIR": str(folder / "jobs")} | variables
        self._page = folder / "page"
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(TIMEOUT)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        runner = web.AppRunner(
            self.server.app(), handler_cancellation=True, shutdown_timeout=0.1, access_log=None
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server
        self.server_port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        variables = {
            "HIGGS_GENERATE_SERVER": f"http://127.0.0.1:{self.server_port}"
        } | self._variables
        self.service = Service(settings.read(variables))
        self.app = GenerateApp(self.service, self._page)
        config = uvicorn.Config(
            self.app, http=GenerateProtocol, ws="none", access_log=False, log_level="critical",
            server_header=False, date_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        self._ready.set()
        await self._stop.wait()
        server.should_exit = True
        await serving
        await runner.cleanup()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIMEOUT)

    def reset(self) -> None:
        """Forget what earlier tests did; wait until nothing of them runs."""
        self.wait_until(self._idle)
        self.server.forget()
        self.call(self._renew)

    def _idle(self) -> bool:
        service = self.service
        return not (self.server.running or service.places.taken or service.statistics.concurrent)

    def _renew(self) -> None:
        service = self.service
        service.statistics = Statistics(service.places)
        service.voices = VoiceList(service.client, service.speaker)

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a function, or a coroutine function, in the loop of the servers."""

        async def run() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(TIMEOUT)

    def behave(self, **changes: Any) -> None:
        self.server.behaviour = replace(self.server.behaviour, **changes)

    def connect(self) -> ClientConnection:
        return ClientConnection("127.0.0.1", self.port, timeout=TIMEOUT)

    def ask(
        self, method: str, path: str, value: Any = None, headers: dict[str, str] | None = None
    ) -> Answered:
        connection = self.connect()
        try:
            body = value if isinstance(value, bytes | None) else json.dumps(value).encode()
            sent = {"Content-Type": "application/json"} if body else {}
            connection.request(method, path, body, sent | (headers or {}))
            answer = connection.getresponse()
            names = {name.lower(): text for name, text in answer.getheaders()}
            return Answered(answer.status, names, answer.read())
        finally:
            connection.close()

    def generate(self, **fields: Any) -> Answered:
        return self.ask("POST", "/generate", {"text": "Hello there."} | fields)

    def begin(self, path: str, value: Any = None) -> tuple[ClientConnection, bytes]:
        """Begin to read a stream; return the connection and its first bytes."""
        connection = self.connect()
        if value is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(value))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        connection.answer = answer
        return connection, answer.read1(100)

    @property
    def last(self) -> dict[str, Any]:
        """The last request that reached the server."""
        return self.server.requests[-1]

    def wait_until(self, condition: Callable[[], bool], timeout: float = TIMEOUT) -> float:
        """Wait for something; return how long it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < timeout, "it did not happen"
            time.sleep(0.002)
        return time.monotonic() - began
