"""Measures what /generate adds to a server's answer, beside nginx as a plain proxy.

    .venv/bin/python -m benchmarks.generate [--requests 200] [--streams 500] [--json FILE]

The speech server is a stand-in that paces sound exactly. It is asked directly, through nginx, and
through the service (which passes /v1/audio/speech on, and answers /generate), in turn on the same
machine and in one run. The two routes are asked in two processes: what one process still does for
a request that has just ended would be counted for the other route's next one. Needs nginx (Debian:
nginx-light), which is installed if that is possible.

- Added first-byte time: the median over single requests, less that of the server alone; on a
  connection that is kept, as clients with a pool have it, and on a new one for each request.
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
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks.stream_listener import BYTES_PER_SECOND, Listener, Target, listen
from higgs_image import retry, table
from higgs_image.ports import free_port, is_free
from higgs_image.workspace import PROJECT
from tests.support import debian
from tests.support.paced_server import Pace, Plan
from tests.support.paced_server import running as paced_server

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


async def first_bytes(
    targets: list[Target], requests: int, *, keep: bool
) -> dict[str, list[float]]:
    """Return the times to the first byte in ms; the targets are asked in turn."""
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    kept: dict[str, Listener] = {}
    for number in range(requests + 10):
        for target in targets:
            heard = await listen(target, kept.get(target.name), keep=keep)
            if heard.status != b"200":
                raise RuntimeError(f"{target.name} answered {heard.status!r}")
            if keep:
                kept[target.name] = heard
            if number >= 10:  # the first ones open connections
                found[target.name].append(1000 * (heard.first - heard.sent))
    for listener in kept.values():
        listener.close()
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
            retry.wait_until(lambda: not is_free(port), 60, interval=0.05)
            yield process.pid
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def targets(pace: Pace) -> Iterator[list[Target]]:
    """Run server, nginx and two services; yields what can be asked."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(paced_server(Plan([pace], record=False)))
        server = int(url.rpartition(":")[2])
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        nginx = free_port()
        config = Path(folder, "nginx.conf")
        config.write_text(NGINX.format(folder=folder, server=server, port=nginx))
        first = stack.enter_context(started([nginx_path(), "-c", str(config)], nginx))
        found = [
            Target("server", server, "/v1/audio/speech", SPEECH),
            Target("nginx", nginx, "/v1/audio/speech", SPEECH, first),
        ]
        for route, body in (("/v1/audio/speech", SPEECH), ("/generate", GENERATE)):
            port = free_port()
            jobs = stack.enter_context(tempfile.TemporaryDirectory())
            process = stack.enter_context(service(url, port, jobs))
            found.append(Target(f"service, {route}", port, route, body, process))
        yield found


@contextlib.contextmanager
def service(url: str, port: int, jobs: str) -> Iterator[int]:
    """Run the service in front of a server; yields its process id."""
    path = f"{PROJECT}/docker/generate:{PROJECT}/docker/patches"
    command = [sys.executable, "-m", "higgs_generate", "--server", url, "--port", str(port)]
    variables = {
        "PYTHONPATH": f"{path}:{os.environ.get('PYTHONPATH', '')}",
        "HIGGS_GENERATE_RUNNING": "2000",
        "HIGGS_GENERATE_JOBS_DIR": jobs,
    }
    with started(command, port, **variables) as process:
        yield process


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
    singles = []
    with targets(SINGLE) as asked:
        for keep in (True, False):
            times = uvloop.run(first_bytes(asked, given.requests, keep=keep))
            base = statistics.median(times["server"])
            singles += [
                {
                    "name": name,
                    "connection": "kept" if keep else "new",
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
