"""Shows on standard error how far a benchmark is: a line that moves in a terminal, else a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from higgs_image.bench.load import Job
from higgs_image.bench.worker import Progress

log = logging.getLogger(__name__)

INTERVAL = 5.0
"""Seconds between two lines of a log."""


@contextmanager
def shown(job: Job, title: str) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows the progress of a round.

    Args:
        job: what is done.
        title: of the round.
    """
    total = job.seconds or float(job.count)
    started, last = time.monotonic(), [time.monotonic()]

    def position(progress: Progress) -> float:
        passed = max(0.0, time.monotonic() - started - job.warmup_s)
        return min(total, passed if job.seconds else float(progress.done))

    def words(progress: Progress) -> str:
        wait = f", first byte {progress.first_byte_s:.2f} s" if progress.first_byte_s else ""
        failed = f", {progress.failed} failed" if progress.failed else ""
        return f"{progress.running} running, {progress.done} done{failed}{wait}"

    if not sys.stderr.isatty():
        log.info("bench: %s", title)

        def line(progress: Progress) -> None:
            if time.monotonic() - last[0] >= INTERVAL:
                last[0] = time.monotonic()
                unit = " s" if job.seconds else ""
                log.info("bench: %s: %.0f of %.0f%s, %s", title, position(progress), total, unit,
                         words(progress))  # fmt: skip

        yield line
        return

    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("bench: {task.description}"), BarColumn(), TextColumn("{task.fields[now]}")
    bars = Bars(*columns, console=Console(stderr=True), transient=True)
    with bars:
        task = bars.add_task(title, total=total, now="")
        yield lambda x: bars.update(task, completed=position(x), now=words(x))
