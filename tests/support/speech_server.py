"""A small speech server for tests of /generate: it records requests, and answers as it is told."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from aiohttp import web

RATE = 24_000
VOICES = [
    {"id": "en_woman", "name": "en_woman", "kind": "recording", "aliases": ["default", "alloy"]},
    {"id": "belinda", "name": "belinda", "kind": "recording", "aliases": ["coral"]},
    {"id": "zh_man_sichuan", "name": "zh_man_sichuan", "kind": "recording", "aliases": []},
    {"id": "narrator", "name": "narrator", "kind": "description", "aliases": []},
]


@dataclass(frozen=True)
class Behaviour:
    """How requests to speak are answered.

    Attributes:
        speed: seconds of sound in a second; 0: at once.
        first: seconds until the first sound.
        status: of the answer.
        error: message of an answer that is not 200.
        retry_after: header of such an answer.
        failing: how many requests get that answer; None: all.
        break_after: bytes of sound after which the connection breaks.
        silence: seconds of silence before and after the sound of a text.
        ping: status of GET /ping.
        per_character: seconds of sound for a character.
    """

    speed: float = 0.0
    first: float = 0.0
    status: int = 200
    error: str = "no"
    param: str | None = None
    retry_after: str = ""
    failing: int | None = None
    break_after: int | None = None
    silence: float = 0.1
    ping: int = 200
    per_character: float = 0.06


class SpeechServer:
    """The server's state."""

    def __init__(self, key: str = "", behaviour: Behaviour | None = None) -> None:
        self.key = key
        self.running = 0
        self.forget()
        self.behaviour = behaviour or Behaviour()

    def forget(self) -> None:
        """Begin anew: no requests, the usual behaviour."""
        self.behaviour = Behaviour()
        self.requests: list[dict[str, Any]] = []
        self.most_running = 0
        self.ended_at: list[float] = []
        self.hung_up = 0

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/audio/voices", self._voices)
        app.router.add_post("/v1/audio/speech", self._speech)
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(status=self.behaviour.ping)

    async def _models(self, request: web.Request) -> web.Response:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, "the API key is missing or wrong")
        if self.behaviour.ping != 200:
            return _error(503, "the server is starting: loading the model")
        return web.json_response({"object": "list", "data": [{"id": "higgs-audio-v2"}]})

    async def _voices(self, _: web.Request) -> web.Response:
        return web.json_response({"voices": VOICES})

    async def _speech(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._answer(request, body, body["input"], chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._answer(request, body, body["messages"][-1]["content"], chat=True)

    async def _answer(
        self, request: web.Request, body: dict[str, Any], text: str, *, chat: bool
    ) -> web.StreamResponse:
        now = self.behaviour
        headers = {k.lower(): v for k, v in request.headers.items()}
        self.requests.append({"path": request.path, "headers": headers, **body})
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, "the API key is missing or wrong")
        if now.status != 200 and now.failing != 0:
            if now.failing:
                self.behaviour = replace(now, failing=now.failing - 1)
            return _error(now.status, now.error, now.param, now.retry_after)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._sound(request, pcm_of(text, now), now, chat=chat)
        except (ConnectionError, asyncio.CancelledError):
            self.hung_up += 1
            raise
        finally:
            self.running -= 1
            self.ended_at.append(time.monotonic())

    async def _sound(
        self, request: web.Request, pcm: bytes, now: Behaviour, *, chat: bool
    ) -> web.StreamResponse:
        await asyncio.sleep(now.first)
        kind = "text/event-stream" if chat else "audio/pcm"
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        step = RATE // 5  # 0.1 s
        began = time.monotonic()
        for start in range(0, len(pcm), step):
            if now.speed:
                due = began + start / 2 / RATE / now.speed
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            if now.break_after is not None and start >= now.break_after:
                assert request.transport
                request.transport.abort()
                return response
            chunk = pcm[start : start + step]
            await response.write(_delta(chunk) if chat else chunk)
        if chat:
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


def pcm_of(text: str, how: Behaviour) -> bytes:
    """Return the sound of a text: a tone whose pitch its first character gives, with silence."""
    count = round(len(text) * how.per_character * RATE)
    pitch = 150 + sum(text.encode()) % 200
    tone = 8000 * np.sin(np.arange(count) * (2 * np.pi * pitch / RATE))
    silence = np.zeros(round(how.silence * RATE))
    return np.concatenate((silence, tone, silence)).astype("<i2").tobytes()


def _delta(chunk: bytes) -> bytes:
    data = base64.b64encode(chunk).decode()
    event = {"choices": [{"index": 0, "delta": {"audio": {"data": data}}}]}
    return f"data: {json.dumps(event)}\n\n".encode()


def _error(
    status: int, message: str, param: str | None = None, retry_after: str = ""
) -> web.Response:
    headers = {"Retry-After": retry_after} if retry_after else {}
    error = {"message": message, "type": "Error", "param": param, "code": status}
    body = {"object": "error", **error, "error": error}
    return web.json_response(body, status=status, headers=headers)
