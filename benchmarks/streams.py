"""Measures what an audio token costs while several listeners stream, for two or more images.

    .venv/bin/python -m benchmarks.streams IMAGE OTHER [--streams 1 16] [--rounds 3] [--json FILE]

All servers run at the same time on the CPU and are asked in turn, so that what else this machine
does is the same for all. For an image as it would be without a patch, build a trial image:
`./inv build --without speech`. CPU time is that of the server's and of the engine's process, from
the container's /proc. A listener plays the sound as it comes: his pace is the sound's seconds by
those until its end, and he waits whenever the next chunk is not there yet.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from higgs_image import lockfile, table
from higgs_image.audio import FRAMES_PER_SECOND, SAMPLE_RATE
from higgs_image.oci.container_spec import ContainerSpec
from higgs_image.oci.daemon import docker_client
from higgs_image.smoke import container, cpu_device
from higgs_image.smoke.leftovers import owner_labels
from higgs_image.workspace import Workspace

LONG = "The train to the coast leaves at noon, so pack your bag and do not forget the tickets. " * 4
BYTES_PER_SECOND = 2 * SAMPLE_RATE
TICKS = os.sysconf("SC_CLK_TCK")
SERVER = "vllm.entrypoints.bosonai.api_server"
PROCESSES = (
    "for p in /proc/[0-9]*; do cat $p/stat; tr '\\0' ' ' < $p/cmdline; echo; done 2>/dev/null"
)


@dataclass(frozen=True)
class Listened:
    """What one listener got; times in seconds.

    Attributes:
        first: until the first sound.
        total: until the end.
        sound: length of the sound.
        silence: that the listener heard between chunks.
    """

    first: float
    total: float
    sound: float
    silence: float


@dataclass(frozen=True)
class Measured:
    """A round of one image.

    Attributes:
        server_us: CPU time of the server's process for an audio token, in microseconds.
        engine_us: of the engine's process.
        tokens_per_second: of all streams together.
        listeners: what each one got.
    """

    server_us: float
    engine_us: float
    tokens_per_second: float
    listeners: list[Listened]


@contextlib.contextmanager
def running(workspace: Workspace, image: str) -> Iterator[tuple[Any, int]]:
    """Run an image on the CPU; yields its container and its port."""
    with docker_client() as client:
        weights = cpu_device.weights(client, workspace, image, lockfile.load(workspace.lock_file))
    spec = ContainerSpec(
        image,
        environment=cpu_device.ENVIRONMENT,
        mounts=cpu_device.mounts(workspace, weights),
        labels=owner_labels(workspace.build, lifetime=24 * 3600),
    )
    with container.created(spec) as created:
        port = container.start(created, 600)[0].client.port
        yield created.get_wrapped_container(), port


def cpu_seconds(asked: Any) -> tuple[float, float]:
    """Return the CPU time so far of the server's process, and of the engine's."""
    lines = asked.exec_run(["sh", "-c", PROCESSES]).output.decode(errors="replace")
    found: dict[int, tuple[int, float, str]] = {}
    stats, commands = lines.splitlines()[::2], lines.splitlines()[1::2]
    for stat, command in zip(stats, commands, strict=False):
        with contextlib.suppress(ValueError, IndexError):
            fields = stat.rpartition(")")[2].split()
            used = (int(fields[11]) + int(fields[12])) / TICKS
            found[int(stat.split()[0])] = int(fields[1]), used, command
    [server] = [
        pid
        for pid, (parent, _, command) in found.items()
        if SERVER in command and SERVER not in found.get(parent, (0, 0.0, ""))[2]
    ]
    engine = max(used for parent, used, command in found.values() if parent == server)
    return found[server][1], engine


async def listen(session: aiohttp.ClientSession, port: int, text: str) -> Listened:
    """Stream one answer."""
    body = {"model": "higgs-audio-v2", "voice": "belinda", "input": text, "response_format": "pcm"}
    began = time.monotonic()
    first = heard_until = silence = 0.0
    size = 0
    url = f"http://127.0.0.1:{port}/v1/audio/speech"
    async with session.post(url, json=body) as answer:
        answer.raise_for_status()
        async for chunk in answer.content.iter_any():
            now = time.monotonic() - began
            if not first:
                first = heard_until = now
            silence += max(0.0, now - heard_until)
            heard_until = max(heard_until, now) + len(chunk) / BYTES_PER_SECOND
            size += len(chunk)
    return Listened(first, time.monotonic() - began, size / BYTES_PER_SECOND, silence)


async def load(port: int, streams: int) -> list[Listened]:
    """Stream as many answers at the same time, each of a text of its own."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        texts = [f"Number {n}. {LONG}" for n in range(streams)]
        return await asyncio.gather(*(listen(session, port, text) for text in texts))


def measure(asked: Any, port: int, streams: int) -> Measured:
    """Measure one round of one image."""
    before = cpu_seconds(asked)
    began = time.monotonic()
    listeners = asyncio.run(load(port, streams))
    took = time.monotonic() - began
    server, engine = (
        after - start for after, start in zip(cpu_seconds(asked), before, strict=True)
    )
    tokens = sum(x.sound for x in listeners) * FRAMES_PER_SECOND
    return Measured(1e6 * server / tokens, 1e6 * engine / tokens, tokens / took, listeners)


def summary(rounds: list[Measured]) -> dict[str, float]:
    """Return medians over the rounds; of the listeners, the median and the worst."""
    listeners = [x for each in rounds for x in each.listeners]
    first = [x.first for x in listeners]
    return {
        "server_us_per_token": statistics.median(x.server_us for x in rounds),
        "engine_us_per_token": statistics.median(x.engine_us for x in rounds),
        "tokens_per_second": statistics.median(x.tokens_per_second for x in rounds),
        "first_sound_median_s": statistics.median(first),
        "first_sound_worst_s": max(first),
        "slowest_listener_pace": min(x.sound / x.total for x in listeners),
        "longest_silence_s": max(x.silence for x in listeners),
    }


def main() -> None:
    """Print a table for each number of streams, one column for each image."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        workspace = Workspace.default()
        servers = [stack.enter_context(running(workspace, image)) for image in given.images]
        for streams in given.streams:
            rounds: list[list[Measured]] = [[] for _ in servers]
            for number in range(given.rounds + 1):
                for place, (asked, port) in enumerate(servers):
                    measured = measure(asked, port, streams)
                    if number:  # the first one warms up
                        rounds[place].append(measured)
            columns = [summary(each) for each in rounds]
            print(f"\n{streams} streams, load {os.getloadavg()[0]:.1f}")
            rows = [[key, *(f"{column[key]:.3g}" for column in columns)] for key in columns[0]]
            print(
                table.text([["", *given.images], *rows], right=range(1, 1 + len(servers))),
                flush=True,
            )
            results += [
                {"image": image, "streams": streams, **column, "rounds": [asdict(x) for x in each]}
                for image, column, each in zip(given.images, columns, rounds, strict=True)
            ]
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
