"""Measures what /generate adds to a server's answer, beside nginx as a plain proxy.

    .venv/bin/python -m benchmarks.generate [--requests 200] [--streams 500] [--json FILE]

The speech server is a stand-in that paces sound exactly. It is asked directly, through nginx, and
through the service (which passes /v1/audio/speech on, and answers /generate), in turn on the same
machine and in one run. Needs nginx (Debian: nginx-light), which is installed if that is possible.

- Added first-byte time: the median over single requests, less that of the server alone.
- Streams at once: errors, underruns (a listener who has 0.2 s of sound before he starts plays
  without a gap), and memory for each stream: growth of the proxy's resident memory by streams.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

from higgs_image import table
from higgs_image.smoke.unpacked import free_port
from higgs_image.workspace import PROJECT
from tests.support import debian
from tests.support.paced_server import Pace, Plan
from tests.support.paced_server import running as paced_server

BYTES_PER_SECOND = 48_000
PREBUFFER_SECONDS = 0.2
SINGLE = Pace(first_s=0.02, seconds=0.2, chunk_s=0.1)
MANY = Pace(first_s=0.5, seconds=8.0, chunk_s=0.2, speed=1.0)
SPEECH = {"model": "paced", "voice": "belinda", "input": "Hello there.", "response_format": "pcm"}
GENERATE = {"text": "Hello there.", "response_format": "pcm", "stream": True}

NGINX = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u;
    scgi_temp_path {folder}/s;
    upstream server {{ server 127.0.0.1:{server}; keepalive 600; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://server;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Target:
    """What is asked: a name, where, how, and whose memory counts."""

    name: str
    port: int
    path: str
    body: dict[str, Any]
    process: int | None = None


@dataclass
class Listener(asyncio.Protocol):
    """One stream, as a player hears it."""

    ended: asyncio.Future[None]
    request: bytes
    sent: float = 0.0
    first: float = 0.0
    size: int = 0
    late: float = 0.0
    status: bytes = b""
    complete: bool = False
    head: bytes = field(default=b"", repr=False)
    tail: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.sent = time.perf_counter()
        cast(asyncio.Transport, transport).write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.status:
            self.head += data
            head, found, data = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            self.status = head[9:12]
        if data and not self.first:
            self.first = now
        if self.first:
            played = now - self.first - PREBUFFER_SECONDS
            self.late = max(self.late, played - self.size / BYTES_PER_SECOND)
        self.size += len(data)
        self.tail = (self.tail + data[-7:])[-7:]
        self.complete = self.tail == b"\r\n0\r\n\r\n"
        if self.complete and not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.ended.done():
            self.ended.set_result(None)


async def listen(target: Target) -> Listener:
    """Ask for one stream and hear it to its end."""
    body = json.dumps(target.body).encode()
    request = (
        f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
    loop = asyncio.get_running_loop()
    transport, listener = await loop.create_connection(
        lambda: Listener(loop.create_future(), request), "127.0.0.1", target.port
    )
    try:
        async with asyncio.timeout(120):
            await listener.ended
    finally:
        transport.close()
    return listener


async def first_bytes(targets: list[Target], requests: int) -> dict[str, list[float]]:
    """Return the times to the first byte in ms; the targets are asked in turn."""
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    for number in range(requests + 10):
        for target in targets:
            heard = await listen(target)
            if heard.status != b"200":
                raise RuntimeError(f"{target.name} answered {heard.status!r}")
            if number >= 10:  # the first ones open connections
                found[target.name].append(1000 * (heard.first - heard.sent))
    return found


def resident_kb(process: int) -> int:
    """Return the resident memory of a process and its children."""
    total = 0
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    for one in [str(process), *children]:
        for line in Path(f"/proc/{one}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total


@dataclass
class Load:
    """What many streams at once gave."""

    name: str
    streams: int
    errors: int
    underruns: int
    latest_ms: float
    first_p50_ms: float
    first_p99_ms: float
    kb_per_stream: float | None


async def load(target: Target, streams: int) -> Load:
    """Hear many streams at once, begun within one second."""
    before = resident_kb(target.process) if target.process else 0
    tasks = []
    for _ in range(streams):
        tasks.append(asyncio.create_task(listen(target)))
        await asyncio.sleep(1 / streams)
    await asyncio.sleep(MANY.seconds / 2)
    during = resident_kb(target.process) if target.process else 0
    heard = await asyncio.gather(*tasks, return_exceptions=True)
    whole = MANY.seconds * BYTES_PER_SECOND
    good = [x for x in heard if isinstance(x, Listener) and x.status == b"200" and x.size >= whole]
    times = sorted(1000 * (x.first - x.sent) for x in good) or [0.0]
    return Load(
        target.name, streams, streams - len(good), sum(x.late > 0 for x in good),
        round(1000 * max((x.late for x in good), default=0.0), 1),
        round(statistics.median(times), 1), round(times[int(len(times) * 0.99)], 1),
        round((during - before) / streams, 1) if target.process else None,
    )  # fmt: skip


@contextlib.contextmanager
def started(command: list[str], port: int, **variables: str) -> Iterator[int]:
    """Run a program until the end; yields its process id once its port answers."""
    with subprocess.Popen(command, cwd=PROJECT, env=os.environ | variables) as process:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def targets(pace: Pace) -> Iterator[list[Target]]:
    """Run server, nginx and service; yields what can be asked."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(paced_server(Plan([pace], record=False)))
        server = int(url.rpartition(":")[2])
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        nginx, service = free_port(), free_port()
        config = Path(folder, "nginx.conf")
        config.write_text(NGINX.format(folder=folder, server=server, port=nginx))
        first = stack.enter_context(started([nginx_path(), "-c", str(config)], nginx))
        path = f"{PROJECT}/docker/generate:{PROJECT}/docker/patches"
        second = stack.enter_context(
            started(
                [sys.executable, "-m", "higgs_generate", "--server", url, "--port", str(service)],
                service,
                PYTHONPATH=f"{path}:{os.environ.get('PYTHONPATH', '')}",
                HIGGS_GENERATE_RUNNING="2000",
                HIGGS_GENERATE_JOBS_DIR=folder,
            )
        )
        yield [
            Target("server", server, "/v1/audio/speech", SPEECH),
            Target("nginx", nginx, "/v1/audio/speech", SPEECH, first),
            Target("service, /v1/audio/speech", service, "/v1/audio/speech", SPEECH, second),
            Target("service, /generate", service, "/generate", GENERATE, second),
        ]


def nginx_path() -> str:
    """Return the path of nginx, which is installed on Debian."""

    def found() -> str:
        return shutil.which("nginx", path="/usr/sbin:/usr/bin") or ""

    debian.require("nginx-light", lambda: bool(found()))
    return found()


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with targets(SINGLE) as asked:
        times = uvloop.run(first_bytes(asked, given.requests))
    base = statistics.median(times["server"])
    singles = [
        {
            "name": name,
            "p50_ms": round(statistics.median(x), 2),
            "p95_ms": round(sorted(x)[int(len(x) * 0.95)], 2),
            "added_p50_ms": round(statistics.median(x) - base, 2),
        }
        for name, x in times.items()
    ]
    loads = []
    with targets(MANY) as asked:
        for target in asked:
            loads.append(asdict(uvloop.run(load(target, given.streams))))
    for rows in (singles, loads):
        print(table.text([list(rows[0]), *([str(x) for x in row.values()] for row in rows)]))
    print(f"load average: {os.getloadavg()[0]:.1f}")
    if given.json:
        given.json.write_text(json.dumps({"first_byte": singles, "load": loads}, indent=2))


if __name__ == "__main__":
    main()
