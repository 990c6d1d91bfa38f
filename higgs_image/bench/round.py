"""One measurement at one load: worker processes send the requests, and their results are joined."""

from __future__ import annotations

import asyncio
import datetime
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from higgs_image.bench.client_facts import cores
from higgs_image.bench.lag import joined
from higgs_image.bench.load import Job
from higgs_image.bench.result import Round
from higgs_image.bench.server_metrics import MetricsWatch, change
from higgs_image.bench.slo import Slo
from higgs_image.bench.summary import summarise
from higgs_image.bench.worker import Done, Message, Progress, Ready, read, write
from higgs_image.errors import BenchError
from higgs_image.workspace import PROJECT

STREAMS_PER_WORKER = 250
"""Streams at once from which on another worker is started, while there are cores."""
EXPECTED_SECONDS = 8.0
"""Length of an answer by which the streams at once of an open loop are estimated."""
DELAY = 0.2
"""Seconds from the moment that all workers are ready until they start."""

Report = Callable[[Progress], None]
Process = subprocess.Popen[bytes]

_DECODER = msgspec.msgpack.Decoder(Message)
"""Made once, when the module is loaded: see docs/upstream.md."""


@dataclass(frozen=True)
class RoundOptions:
    """What a round keeps.

    Attributes:
        slo: for goodput.
        records: keep every request.
        arrivals: with the arrival of each part of its sound.
    """

    slo: Slo
    records: bool = False
    arrivals: bool = False


def workers_for(job: Job) -> int:
    """Return how many processes a load takes."""
    streams = job.load.at_once or job.load.rate * EXPECTED_SECONDS
    return max(1, min(cores(), math.ceil(streams / STREAMS_PER_WORKER)))


async def run_round(job: Job, options: RoundOptions, report: Report) -> Round:
    """Run one round.

    Args:
        job: for the first worker; the others do the same with their number.
        options: what to keep.
        report: called with the progress of all workers together.

    Raises:
        BenchError: a worker ended before its work was done.
    """
    count = workers_for(job)
    jobs = [msgspec.structs.replace(job, worker=n, workers=count) for n in range(count)]
    started = datetime.datetime.now(datetime.UTC)
    processes = [_spawn(x) for x in jobs]
    latest = [Progress(0, 0, 0, 0.0)] * count
    try:
        for process in processes:
            await _receive(process)
        start = time.monotonic() + DELAY
        cpu, wall = time.process_time(), time.monotonic()
        async with MetricsWatch(job.target) as watch:
            for process in processes:
                assert process.stdin  # noqa: S101 (a pipe)
                write(process.stdin, start)

            def show(number: int, progress: Progress) -> None:
                latest[number] = progress
                waits = [x.first_byte_s for x in latest if x.first_byte_s]
                mean = sum(waits) / len(waits) if waits else 0.0
                report(Progress(sum(x.running for x in latest), sum(x.done for x in latest),
                                sum(x.failed for x in latest), mean))  # fmt: skip

            done = await asyncio.gather(
                *(_until_done(x, partial(show, n)) for n, x in enumerate(processes))
            )
        own = (time.process_time() - cpu) / (time.monotonic() - wall)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lags = [x.lag for x in done]
    results = [x for part in done for x in part.results]
    return summarise(results, lags, joined(lags, own, memory_mb), job, options.slo,
                     started.replace(microsecond=0), change(watch.samples),
                     records=options.records, arrivals=options.arrivals)  # fmt: skip


def _spawn(job: Job) -> Process:
    process = subprocess.Popen(
        [sys.executable, "-m", "higgs_image.bench.worker"], cwd=PROJECT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdin  # noqa: S101 (a pipe)
    write(process.stdin, job)
    return process


async def _receive(process: Process) -> Ready | Progress | Done:
    assert process.stdout  # noqa: S101 (a pipe)
    try:
        data = await asyncio.to_thread(read, process.stdout)
    except EOFError:
        raise BenchError(
            f"a worker of the benchmark ended with status {process.wait()}",
            "see its error above; less memory is used at a lower load",
        ) from None
    message: Ready | Progress | Done = _DECODER.decode(data)
    return message


async def _until_done(process: Process, report: Report) -> Done:
    while True:
        message = await _receive(process)
        if isinstance(message, Done):
            return message
        if isinstance(message, Progress):
            report(message)
