"""A speech server that paces sound exactly: the known truth against which `bench` is tested.

    .venv/bin/python -m tests.support.paced_server '{"paces": [{"first_s": 0.2}]}'

It prints its port and serves until its standard input ends. Request number n (from 0) follows
`paces[n % len(paces)]`; GET /truth returns what was really sent, and when. POST /plan begins anew
with another plan.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import itertools
import json
import math
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import numpy as np
import uvloop

from higgs_image.audio import SAMPLE_RATE
from higgs_image.bench.worker import come_first
from higgs_image.workspace import PROJECT
from tests.support.sound import encoded

TYPES = {"pcm": "audio/pcm", "wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac",
         "opus": "audio/ogg", "aac": "audio/aac"}  # fmt: skip


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one request is answered.

    Attributes:
        headers_s: seconds until the headers are sent.
        first_s: seconds until the first chunk of sound.
        seconds: length of the sound.
        chunk_s: length of the sound of a chunk.
        speed: seconds of sound sent in a second after the first chunk.
        gaps: seconds by which a chunk and all that follow are later, by its number.
        cut_after: chunks after which the connection breaks; None: never.
        hang_after: chunks after which nothing more comes; None: never.
        status: of the answer.
        silent: the sound is silence.
        junk: the body is no sound at all.
    """

    headers_s: float = 0.0
    first_s: float = 0.1
    seconds: float = 2.0
    chunk_s: float = 0.04
    speed: float = 1.0
    gaps: dict[int, float] = {}
    cut_after: int | None = None
    hang_after: int | None = None
    status: int = 200
    silent: bool = False
    junk: bool = False


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server does.

    Attributes:
        paces: for the requests in turn.
        capacity: streams at once beyond which all are paced slower than real time; 0: any number.
        key: API key that a request must have; empty: none.
        record: keep what was sent for GET /truth.
    """

    paces: list[Pace]
    capacity: int = 0
    key: str = ""
    record: bool = True


@functools.cache
def sound(form: str, seconds: float, silent: bool) -> bytes:
    """Return a whole file with a tone of 440 Hz, or with silence."""
    count = round(seconds * SAMPLE_RATE)
    tone = np.zeros(count) if silent else np.sin(np.arange(count) * (2 * math.pi * 440 / 24_000))
    samples = (tone * 8_000).astype("<i2")
    if form == "pcm":
        return samples.tobytes()
    if form == "wav":
        size = 0xFFFFFFFF
        head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", size, b"WAVE", b"fmt ", 16, 1, 1,
                           SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16, b"data", size)  # fmt: skip
        return head + samples.tobytes()
    return encoded(form, samples.tobytes())


@functools.cache
def pieces(form: str, pace: str) -> tuple[bytes, ...]:
    """Return the chunks of an answer, as HTTP/1.1 sends them."""
    how = msgspec.json.decode(pace, type=Pace)
    whole = sound(form, how.seconds, how.silent)
    if how.junk:
        whole = b"<html>no sound</html>" * 500
    head = 44 if form == "wav" else 0
    count = max(1, math.ceil(how.seconds / how.chunk_s - 1e-9))
    step = (len(whole) - head) / (how.seconds / how.chunk_s)
    marks = [head + min(round(step * n), len(whole) - head) // 2 * 2 for n in range(count)]
    marks = [0, *marks[1:], len(whole)]
    parts = [whole[a:b] for a, b in itertools.pairwise(marks)]
    return tuple(part for part in parts if part)


END = b"0\r\n\r\n"
"""End of a chunked body."""


def framed(part: bytes) -> bytes:
    """Return a chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(part), part)


@dataclass
class Stream:
    """An answer that is being sent."""

    pace: Pace
    parts: tuple[bytes, ...]
    received: float
    sent: list[float] = field(default_factory=list)


class Server:
    """All that connections share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.count = self.active = self.busiest = 0
        self.truth: list[dict[str, Any]] = []
        self.paces = [(x, msgspec.json.encode(x).decode()) for x in plan.paces]
        self.requests: list[dict[str, Any]] = []

    @property
    def slowdown(self) -> float:
        """How many times slower than planned sound comes now."""
        over = self.active / self.plan.capacity if self.plan.capacity else 0.0
        return over * 1.25 if over > 1 else 1.0


class Connection(asyncio.Protocol):
    """One connection; requests on it are answered one after the other."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self.server = servers[-1]
        self.loop = asyncio.get_running_loop()
        self.received = b""
        self.stream: Stream | None = None
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()
        self.done()

    def done(self) -> None:
        if self.stream:
            self.server.active -= 1
            if self.server.plan.record:
                self.server.truth.append({"received": self.stream.received,
                                          "sent": self.stream.sent})  # fmt: skip
            self.stream = None

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin1").split("\r\n")
        fields = {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines[1:])}
        if len(rest) < (size := int(fields.get("content-length", 0))):
            return
        body, self.received = rest[:size], rest[size:]
        method, path, _ = lines[0].split(" ")
        key = self.server.plan.key
        if path == "/plan":
            self.servers[:] = [Server(msgspec.json.decode(body, type=Plan))]
            self.answer(200, b"{}")
        elif key and fields.get("authorization") != f"Bearer {key}":
            self.answer(401, b'{"error": {"message": "no key"}}')
        elif method == "POST":
            self.speak(path, json.loads(body))
        else:
            self.look(path)

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.transport.write(
            b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (status, kind.encode(), len(body), body)
        )

    def look(self, path: str) -> None:
        server = self.server
        answers: dict[str, Any] = {
            "/v1/models": {"data": [{"id": "paced"}]},
            "/v1/audio/voices": {"voices": ["belinda", "vex", "mabel", "chadwick"]},
            "/version": {"version": "0.8.3+paced"},
            "/truth": {"streams": server.truth, "busiest": server.busiest,
                       "requests": server.requests},
        }  # fmt: skip
        if path == "/metrics":
            self.answer(200, METRICS.format(server.count, server.active).encode(), "text/plain")
        elif path in answers:
            self.answer(200, json.dumps(answers[path]).encode())
        else:
            self.answer(404, b"{}")

    def speak(self, path: str, body: dict[str, Any]) -> None:
        server, now = self.server, time.monotonic()
        number, server.count = server.count, server.count + 1
        server.active += 1
        server.busiest = max(server.busiest, server.active)
        pace, text = server.paces[number % len(server.paces)]
        if server.plan.record:
            server.requests.append({"path": path, **body})
        if pace.status != 200:
            server.active -= 1
            self.answer(pace.status, b'{"error": {"message": "as planned"}}')
            return
        form = (body.get("audio") or {}).get("format") or body.get("response_format") or "wav"
        form = form.removesuffix("16")
        kind, parts = TYPES[form], pieces(form, text)
        whole = path == "/generate" or body.get("stream") is False
        if path.endswith("/chat/completions"):
            kind, parts = ("application/json", chat_whole(parts)) if whole else (
                "text/event-stream", chat_events(parts))  # fmt: skip
        self.stream = Stream(pace, tuple(map(framed, parts)), now)
        if whole:
            self.stream.parts = (framed(b"".join(parts)),)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        wait = pace.seconds / pace.speed if whole else pace.headers_s
        self.later(now + wait, lambda: self.head(head.encode(), whole))

    def later(self, when: float, call: Any) -> None:
        delay = when - time.monotonic()
        if delay <= 0:
            call()
        else:
            self.timer = self.loop.call_later(delay, call)

    def head(self, head: bytes, whole: bool) -> None:
        assert self.stream
        self.transport.write(head)
        self.chunk(0, self.stream.received + (0 if whole else self.stream.pace.first_s))

    def chunk(self, number: int, when: float) -> None:
        """Send a chunk at its time, and plan the next one."""
        if when > time.monotonic() + 0.0005:
            self.timer = self.loop.call_later(when - time.monotonic(), self.chunk, number, when)
            return
        stream = self.stream
        assert stream
        pace = stream.pace
        if number == pace.cut_after:
            self.transport.abort()
            return
        if number == pace.hang_after:
            return
        stream.sent.append(time.monotonic())
        if number + 1 == len(stream.parts):
            self.transport.write(stream.parts[number] + END)
            self.done()
            return
        self.transport.write(stream.parts[number])
        step = pace.chunk_s / pace.speed * self.server.slowdown
        following = when + step + pace.gaps.get(number + 1, 0.0)
        delay = following - time.monotonic()
        self.timer = self.loop.call_later(max(0.0, delay), self.chunk, number + 1, following)


def chat_events(parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return server-sent events with the sound in base64."""
    events = [
        {"choices": [{"delta": {"audio": {"data": base64.b64encode(part).decode()}}}]}
        for part in parts
    ]
    return (*(b"data: %b\n\n" % json.dumps(x).encode() for x in events), b"data: [DONE]\n\n")


def chat_whole(parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return a chat completion with all of the sound."""
    data = base64.b64encode(b"".join(parts)).decode()
    return (json.dumps({"choices": [{"message": {"audio": {"data": data}}}]}).encode(),)


METRICS = """\
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{{model_name="paced"}} {0}
vllm:num_requests_running{{model_name="paced"}} {1}
vllm:num_requests_waiting{{model_name="paced"}} 3.0
vllm:gpu_cache_usage_perc{{model_name="paced"}} 0.25
vllm:gpu_prefix_cache_queries_total{{model_name="paced"}} 200.0
vllm:gpu_prefix_cache_hits_total{{model_name="paced"}} 198.0
"""


async def serve(plan: Plan) -> None:
    """Serve until standard input ends."""
    loop, servers = asyncio.get_running_loop(), [Server(plan)]
    listening = await loop.create_server(lambda: Connection(servers), "127.0.0.1", 0, backlog=2048)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


_idle: list[tuple[subprocess.Popen[str], str]] = []
"""Servers that can be used again, each with its URL: a start takes longer than most tests."""


@contextlib.contextmanager
def running(plan: Plan) -> Iterator[str]:
    """Run a server in a process of its own; yields its URL.

    The process ends with this one, and is used again until then.
    """
    encoded = msgspec.json.encode(plan)
    if _idle and _idle[-1][0].poll() is None:
        process, url = _idle.pop()
        urllib.request.urlopen(f"{url}/plan", encoded).close()
    else:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.paced_server", encoded.decode()],
            cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
    try:
        yield url
    finally:
        _idle.append((process, url))


if __name__ == "__main__":
    come_first()
    uvloop.run(serve(msgspec.json.decode(sys.argv[1], type=Plan)))
