"""A process that sends requests: python -m higgs_image.bench.worker.

It reads a job from standard input, writes `Ready`, reads when to start (on the monotonic clock,
which all processes of a machine share), writes `Progress` about once a second, and ends with
`Done`. Each message has its length before it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import struct
import sys
import tempfile
from typing import IO

import msgspec
import uvloop

from higgs_image.bench.lag import WorkerLag
from higgs_image.bench.load import Job, WorkerLoad
from higgs_image.bench.measured import RequestResult, measure


def come_first() -> None:
    """Take precedence over all else on this machine, where that is allowed.

    A busy server beside the tool must not make it late; its own use of a core is measured.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


class Ready(msgspec.Struct, tag="ready"):
    """The worker waits for its start."""


class Progress(msgspec.Struct, tag="progress"):
    """How far a worker is.

    Attributes:
        running: requests that are running.
        done: requests that count and have ended.
        failed: those of them that failed, so far as the connection tells.
        first_byte_s: mean time to the first byte of those that ended since the last report.
    """

    running: int
    done: int
    failed: int
    first_byte_s: float


class Done(msgspec.Struct, tag="done"):
    """All that a worker measured.

    Attributes:
        results: one for each request.
        lag: of the worker.
    """

    results: list[RequestResult]
    lag: WorkerLag


Message = Ready | Progress | Done
LENGTH = struct.Struct("<Q")


def write(out: IO[bytes], message: msgspec.Struct | float) -> None:
    """Write a message."""
    data = msgspec.msgpack.encode(message)
    out.write(LENGTH.pack(len(data)) + data)
    out.flush()


def read(source: IO[bytes]) -> bytes:
    """Read a message.

    Raises:
        EOFError: the other side has ended.
    """
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    return source.read(LENGTH.unpack(head)[0])


def main() -> None:
    """Do one job."""
    out = open(1, "wb", closefd=False)  # noqa: SIM115 (PYTHONUNBUFFERED writes in part)
    source = sys.stdin.buffer
    job = msgspec.msgpack.decode(read(source), type=Job)
    come_first()
    job.workload.item(0)  # what is loaded once
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    write(out, Ready())
    start = msgspec.msgpack.decode(read(source), type=float)
    with tempfile.TemporaryFile() as spool:
        load = WorkerLoad(job, start, spool)
        reported = 0

        def report() -> None:
            nonlocal reported
            fresh = [x for x in load.exchanges[reported:] if x.counted]
            reported = len(load.exchanges)
            counted = [x for x in load.exchanges if x.counted]
            waits = [x.times[0] - x.sent for x in fresh if x.times]
            mean = sum(waits) / len(waits) if waits else 0.0
            failed = sum(x.failure is not None for x in counted)
            write(out, Progress(load.running, len(counted), failed, mean))

        uvloop.run(load.run(report))
        opens = start + job.warmup_s
        late = [x.sent - x.planned for x in load.exchanges if x.counted]
        lag = load.lag.result(late, load.dropped)
        results = [measure(x, opens, job.buffer_s) for x in load.exchanges]
    write(out, Done(results, lag))


if __name__ == "__main__":
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        main()
