"""500 streams at once: all whole, and little memory for each."""

from __future__ import annotations

import asyncio
import resource

from benchmarks.generate import GENERATE
from benchmarks.stream_listener import Listener, Target, listen
from tests.support.paced_server import Pace, Plan, running
from tests.unit.generate.conftest import MakeRun

STREAMS = 500
SECONDS = 1.0


def test_500_streams_at_once_are_whole(make_run: MakeRun) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    with running(Plan([Pace(first_s=1.0, seconds=SECONDS, chunk_s=0.2)], record=False)) as url:
        run = make_run(HIGGS_GENERATE_SERVER=url)
        target = Target("service", run.port, "/generate", GENERATE)

        async def all_at_once() -> list[Listener]:
            return await asyncio.gather(*(listen(target) for _ in range(STREAMS)))

        heard = asyncio.run(all_at_once())
        assert {x.status for x in heard} == {b"200"} and all(x.complete for x in heard)
        assert min(x.size for x in heard) >= SECONDS * 48_000
        run.wait_until(lambda: run.service.places.taken == run.service.statistics.concurrent == 0)
        assert run.service.statistics.succeeded == STREAMS
