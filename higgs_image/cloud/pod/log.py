"""The log of a pod, followed while it runs."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import LogEvent
from higgs_image.errors import CloudNotFoundError, HiggsError

log = logging.getLogger(__name__)

QUIET = 3.0
"""Seconds without a line after which the past has been shown."""
PAUSE = 1.0
"""Seconds before a broken stream is opened again."""
BACKFILL = "5000"
"""Lines of the past that are asked for: the most that RunPod gives."""


class PodLog:
    """Follows the log of a pod in a thread, and writes it to a file.

    Args:
        account: at RunPod.
        pod: its id.
        file: receives the lines of the container; None: none.
    """

    def __init__(self, account: RunPodClient, pod: str, file: Path | None = None) -> None:
        self._account, self._pod, self._file = account, pod, file
        self._events: list[LogEvent] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="pod-log")

    def start(self) -> PodLog:
        """Begin."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End; a line that comes later is lost."""
        self._ended.set()

    @property
    def events(self) -> list[LogEvent]:
        """What has come so far."""
        return list(self._events)

    def container(self) -> str:
        """Return the lines of the container."""
        return "\n".join(x.line for x in self._events if x.source == "container")

    def system(self) -> str:
        """Return the lines of the host: pulls, starts and ends."""
        return "\n".join(x.line for x in self._events if x.source == "system")

    def _follow(self) -> None:
        for event in events_of(self._account, self._pod, self._ended):
            self._events.append(event)
            if self._file is not None and event.source == "container":
                with self._file.open("a", encoding="utf-8") as out:
                    out.write(f"{event.line}\n")


def read(account: RunPodClient, pod: str, *, follow: bool, tail: int) -> Iterator[LogEvent]:
    """Yield the lines of a pod's log.

    Args:
        account: at RunPod.
        pod: its id.
        follow: go on until the pod is gone; else end when nothing comes for QUIET seconds.
        tail: how many lines of the past.
    """
    ended = threading.Event()
    if follow:
        yield from events_of(account, pod, ended, tail)
        return
    lines: queue.Queue[LogEvent] = queue.Queue()

    def collect() -> None:
        for event in events_of(account, pod, ended, tail):
            lines.put(event)

    threading.Thread(target=collect, daemon=True, name="pod-log").start()
    with contextlib.suppress(queue.Empty):
        while True:
            yield lines.get(timeout=QUIET)
    ended.set()


def events_of(
    account: RunPodClient, pod: str, ended: threading.Event, tail: int | None = None
) -> Iterator[LogEvent]:
    """Yield the lines of a pod's log until the pod is gone; a broken stream is taken up again.

    Args:
        account: at RunPod.
        pod: its id.
        ended: set from elsewhere to end it.
        tail: how many lines of the past; None: as many as there are.
    """
    last, failed = "", ""
    while not ended.is_set():
        query = {"tail": BACKFILL if tail is None else str(tail)}
        try:
            with account.lines(f"/v2/pods/{pod}/logs", query, last) as lines:
                for name, event in _events(lines):
                    last = name or last
                    yield event
                    if ended.is_set():
                        return
        except CloudNotFoundError:
            return
        except HiggsError as error:
            if error.message != failed:
                log.info("pod: %s", error.message)
            failed = error.message
            if not error.transient:
                return
        time.sleep(PAUSE)


def _events(lines: Iterable[bytes]) -> Iterator[tuple[str, LogEvent]]:
    """Yield id and content of each event of a stream (Server-Sent Events)."""
    name, data = "", b""
    for raw in lines:
        line = raw.rstrip(b"\r\n")
        field, _, value = line.partition(b":")
        if field == b"id":
            name = value.strip().decode()
        elif field == b"data":
            data += value.strip()
        elif not line and data:
            try:
                yield name, msgspec.json.decode(data, type=LogEvent)
            except msgspec.DecodeError:
                log.info("pod: a line of the log is not what RunPod describes: %r", data[:200])
            data = b""
