"""Reading back what was written, from registries that go on answering as before for a while.

ghcr.io is one: for some seconds after a write it may still say 404 or name the previous digest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from higgs_image import retry

log = logging.getLogger(__name__)

LAG = 30.0
"""Seconds for which a registry may go on answering as before a write."""

INTERVAL = 0.5
"""Seconds between two reads."""

T = TypeVar("T")


class _Longest:
    """The longest lag that this process has seen, in seconds."""

    seconds = 0.0


def until(read: Callable[[], T], wanted: object, what: str, age: float = 0.0) -> T:
    """Read until the answer is the wanted one, and return the last answer.

    Args:
        read: reads once.
        wanted: the answer that ends the wait.
        what: named in the log.
        age: seconds since the write; LAG seconds after it no more is waited.
    """
    return until_true(read, lambda found: found == wanted, what, age)


def until_true(read: Callable[[], T], good: Callable[[T], bool], what: str, age: float = 0.0) -> T:
    """Read until an answer is good, and return the last answer: see `until`."""
    started = time.monotonic()
    found = read()
    if good(found) or age >= LAG:
        return found
    log.info("%s: the registry still answers as before; waiting", what)

    def again() -> bool:
        nonlocal found
        found = read()
        return good(found)

    if retry.wait_until(again, LAG - age, interval=INTERVAL):
        _Longest.seconds = max(_Longest.seconds, time.monotonic() - started)
    return found


def seen_lag() -> float:
    """Return the longest time in seconds after which something became visible to this process."""
    return _Longest.seconds
