"""The tool's own lag: how late its event loop runs, and what it costs.

A late loop sees sound later than it arrived. Where that matters the figures are the tool's own and
not the server's, and are not quoted.
"""

from __future__ import annotations

import asyncio
import resource
import time
from array import array
from collections.abc import Sequence

import msgspec
import numpy as np

INTERVAL = 0.01
"""Seconds between two looks at the loop."""

LIMIT_S = 0.005
"""Lag (99th percentile) up to which figures are quoted in any case."""
LIMIT_SHARE = 0.02
"""Lag as a share of the median time to the first sound up to which figures are quoted."""
BUSIEST = 0.9
"""Share of a core from which on a worker is the limit itself."""


class WorkerLag(msgspec.Struct, frozen=True):
    """What one worker measured of itself.

    Attributes:
        delays: seconds by which its loop was late, each time it was looked at; float32 as bytes.
        lateness: seconds by which requests were sent late, likewise.
        cores: share of a core that it used.
        memory_mb: the most memory that it had.
        dropped: requests that it did not send, as too many were running.
    """

    delays: bytes
    lateness: bytes
    cores: float
    memory_mb: float
    dropped: int = 0


class OwnLag(msgspec.Struct, frozen=True):
    """What the tool measured of itself in a round.

    Attributes:
        loop_p50_ms: by how much an event loop was late.
        loop_p99_ms: likewise; the tool's error of a time is at most about this.
        loop_max_ms: likewise.
        send_p99_ms: by how much requests were sent late.
        cores: used by all processes of the tool together.
        memory_mb: likewise.
        workers: number of processes that sent requests.
        dropped: requests that were not sent, as too many were running.
    """

    loop_p50_ms: float
    loop_p99_ms: float
    loop_max_ms: float
    send_p99_ms: float
    cores: float
    memory_mb: float
    workers: int
    dropped: int = 0


class LagMeter:
    """Measures the event loop that it runs on, between `begin` and `end`."""

    def __init__(self) -> None:
        self._delays = array("f")
        self._task: asyncio.Task[None] | None = None
        self._cpu = self._wall = 0.0
        self._used = (0.0, 1.0)

    def begin(self) -> None:
        """Begin to measure."""
        self._cpu, self._wall = time.process_time(), time.monotonic()
        self._task = asyncio.create_task(self._look())

    def end(self) -> None:
        """End the measurement; a second call does nothing."""
        if self._task:
            self._task.cancel()
            self._task = None
            self._used = (time.process_time() - self._cpu, time.monotonic() - self._wall)

    async def _look(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(INTERVAL)
            self._delays.append(max(0.0, time.monotonic() - before - INTERVAL))

    def result(self, lateness: Sequence[float], dropped: int) -> WorkerLag:
        """Return what was measured."""
        cpu, wall = self._used
        return WorkerLag(
            self._delays.tobytes(), array("f", lateness).tobytes(), cpu / max(wall, 1e-9),
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, dropped,
        )  # fmt: skip


def joined(workers: Sequence[WorkerLag], own_cores: float, own_mb: float) -> OwnLag:
    """Return the lag of the whole tool.

    Args:
        workers: what each measured.
        own_cores: share of a core that the process used that started them.
        own_mb: its memory.
    """
    delays = np.frombuffer(b"".join(x.delays for x in workers), np.float32)
    late = np.frombuffer(b"".join(x.lateness for x in workers), np.float32)
    low, high = (np.quantile(delays, [0.5, 0.99]) if len(delays) else (0.0, 0.0)) * np.array(1000)
    return OwnLag(
        round(float(low), 2), round(float(high), 2), round(float(delays.max(initial=0)) * 1000, 2),
        round(float(np.quantile(late, 0.99)) * 1000 if len(late) else 0.0, 2),
        round(sum(x.cores for x in workers) + own_cores, 2),
        round(sum(x.memory_mb for x in workers) + own_mb),
        len(workers), sum(x.dropped for x in workers),
    )  # fmt: skip


def limit(lag: OwnLag, workers: Sequence[WorkerLag], first_sound_s: float) -> str:
    """Return why the tool and not the server was the limit; empty if it was not.

    Args:
        lag: of the whole tool.
        workers: what each measured.
        first_sound_s: median time to the first sound.
    """
    allowed_ms = 1000 * max(LIMIT_S, LIMIT_SHARE * first_sound_s)
    if lag.dropped:
        return f"{lag.dropped} requests were not sent, as too many were running"
    for what, value in (
        ("its event loop was", lag.loop_p99_ms),
        ("requests were", lag.send_p99_ms),
    ):
        if value > allowed_ms:
            return f"{what} {value:.1f} ms late (p99), at most {allowed_ms:.1f} ms is allowed"
    busiest = max((x.cores for x in workers), default=0.0)
    if busiest > BUSIEST:
        return f"a worker used {busiest:.2f} of a core, at most {BUSIEST} is allowed"
    return ""
