"""The load of a level, and what one worker process does of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import IO, Any

import aiohttp
import msgspec

from higgs_image.bench.arrivals import arrivals
from higgs_image.bench.exchange import Exchange, SpeechClient
from higgs_image.bench.lag import LagMeter
from higgs_image.bench.target import Target, headers
from higgs_image.bench.workload import Workload

Source = Coroutine[Any, Any, None]

MOST_RUNNING = 4000
"""Requests that one worker has running at most."""
PAUSE = 0.1
"""Seconds that a listener waits after a failure: a server that refuses is not to be flooded."""
KEEP_ALIVE = 2.0
"""Seconds after which an idle connection is closed: before any server closes it."""


class Load(msgspec.Struct, frozen=True):
    """How hard a server is loaded.

    Attributes:
        at_once: listeners, each of whom asks again as soon as an answer has ended (closed loop).
        rate: requests a second that arrive, whatever the server does (open loop); 0: closed loop.
        burstiness: of those arrivals.
    """

    at_once: int = 0
    rate: float = 0.0
    burstiness: float = 1.0

    def text(self) -> str:
        """Return it as a person reads it."""
        return f"{self.at_once} at once" if not self.rate else f"{self.rate:g} a second"


class Job(msgspec.Struct, frozen=True):
    """What one worker does.

    Attributes:
        target: the server.
        workload: what is spoken.
        load: of all workers together.
        worker: number of this one, from 0.
        workers: how many there are.
        warmup_s: seconds from the start whose requests do not count.
        seconds: length of the measured time; 0: `count` decides.
        count: requests that are measured, by all workers; 0: `seconds` decides.
        timeout_s: seconds until an answer has to be whole.
        buffer_s: sound that the simulated player buffers.
        seed: of arrivals.
    """

    target: Target
    workload: Workload
    load: Load
    worker: int
    workers: int
    warmup_s: float
    seconds: float
    count: int
    timeout_s: float
    buffer_s: float
    seed: int


class WorkerLoad:
    """Sends one worker's share of a level.

    Attributes:
        exchanges: all requests that have ended.
        running: number of requests that have not.
        dropped: requests that were not sent.
        lag: of this worker.
    """

    def __init__(self, job: Job, start: float, spool: IO[bytes]) -> None:
        self.job, self.start, self.spool = job, start, spool
        self.exchanges: list[Exchange] = []
        self.running = self.dropped = 0
        self.lag = LagMeter()
        self._opens = start + job.warmup_s
        self._closes = self._opens + job.seconds if job.seconds else float("inf")
        self._counted = 0
        self._sent_all = asyncio.Event()
        self._idle = asyncio.Event()

    async def run(self, report: Callable[[], None]) -> None:
        """Send all requests and wait for those that count.

        Args:
            report: called about once a second.
        """
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)
        async with aiohttp.ClientSession(
            connector=connector, headers=headers(), timeout=aiohttp.ClientTimeout(total=None),
            trust_env=self.job.target.by_proxy,
        ) as session:  # fmt: skip
            client = SpeechClient(session, self.job.target, self.job.timeout_s, self.spool)
            is_open = self.job.load.rate > 0
            sources = [self._arrive(client)] if is_open else self._closed_loop(client)
            tasks = {asyncio.create_task(x) for x in sources}
            tasks |= {asyncio.create_task(self._reports(report))}
            try:
                await self._measured()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _measured(self) -> None:
        """Return when every request that counts has ended."""
        await _until(self._opens)
        self.lag.begin()
        if self.job.seconds:
            await _until(self._closes)
            self.lag.end()
            self._sent_all.set()
        await self._sent_all.wait()
        while self._counted:
            self._idle.clear()
            await self._idle.wait()
        self.lag.end()

    async def _reports(self, report: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(1.0)
            report()

    async def _speak(
        self, client: SpeechClient, index: int, planned: float, counted: bool
    ) -> Exchange:
        self.running += 1
        self._counted += counted
        try:
            item = self.job.workload.item(index)
            done = await client.speak(item, planned, counted=counted)
            self.exchanges.append(done)
            return done
        finally:
            self.running -= 1
            self._counted -= counted
            if not self._counted:
                self._idle.set()

    def _counts(self, now: float) -> bool:
        return self._opens <= now <= self._closes

    def _closed_loop(self, client: SpeechClient) -> list[Source]:
        job = self.job
        mine = range(job.worker, job.load.at_once, job.workers)
        left = [len(mine)]
        if not mine:
            self._sent_all.set()

        async def listener(number: int) -> None:
            # Nobody starts in step with the others: the first requests are spread over the warm-up.
            await _until(self.start + job.warmup_s / 2 * number / job.load.at_once)
            turn = warm = 0
            while True:
                now = time.monotonic()
                counted = self._counts(now)
                index = number + turn * job.load.at_once
                if job.count and index >= job.count and counted:
                    break
                turn += counted
                warm += not counted
                if not counted:  # other texts than those that count
                    index = -1 - number - (warm - 1) * job.load.at_once
                if (await self._speak(client, index, now, counted)).failure:
                    await asyncio.sleep(PAUSE)
            left[0] -= 1
            if not left[0]:
                self._sent_all.set()

        return [listener(number) for number in mine]

    async def _arrive(self, client: SpeechClient) -> None:
        """Send the requests of an open loop."""
        job, index = self.job, 0
        tasks: set[asyncio.Task[Exchange]] = set()
        due = arrivals(job.load.rate, job.load.burstiness, job.seed)
        for order, offset in enumerate(due):
            planned = self.start + offset
            counted = self._counts(planned)
            number = index if counted else -1 - order
            index += counted
            if job.count and number >= job.count:
                break
            if order % job.workers != job.worker:
                continue
            await _until(planned)
            if self.running >= MOST_RUNNING:
                self.dropped += counted
                continue
            task = asyncio.create_task(self._speak(client, number, planned, counted))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        self._sent_all.set()
        await asyncio.gather(*tasks)


async def _until(when: float) -> None:
    while (left := when - time.monotonic()) > 0:  # uvloop wakes up to half a millisecond early
        await asyncio.sleep(left)
