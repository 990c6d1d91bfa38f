"""The one retry policy, and the one wait loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import tenacity

from higgs_image.errors import HiggsError

log = logging.getLogger(__name__)

WAIT = 1.0
"""Seconds before the second attempt; doubled before each further one."""

ATTEMPTS = 4
"""How often a transient failure is tried."""

LONGEST_WAIT = 120.0
"""Seconds that a server may ask to wait before the next attempt."""

T = TypeVar("T")


def attempts(what: str) -> tenacity.Retrying:
    """Return attempts until one succeeds; only a transient error leads to another.

    Use it as `attempts("read")(function)`, or as `for attempt in attempts("push"): with attempt:
    ...`; the last error is raised.

    Args:
        what: named in the log when it is tried again.
    """

    def report(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        message = error.message if isinstance(error, HiggsError) else error
        wait = state.next_action.sleep if state.next_action else 0.0
        log.info("%s: %s; trying again in %.1f s", what, message, wait)

    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=_wait,
        retry=tenacity.retry_if_exception(_is_transient),
        before_sleep=report,
        reraise=True,
    )


def _wait(state: tenacity.RetryCallState) -> float:
    """Double the wait each time; a server that asks for more time (Retry-After) gets it."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, HiggsError) else 0.0
    return max(tenacity.wait_exponential(multiplier=WAIT)(state), min(asked, LONGEST_WAIT))


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, HiggsError) and error.transient


def wait_until(ready: Callable[[], T | None], timeout: float, *, interval: float = 0.2) -> T | None:
    """Call a function until it returns something true; None if it does not in time.

    Args:
        ready: called at once and then after each interval; its errors are not caught.
        timeout: seconds.
        interval: seconds between two calls.
    """
    loop = tenacity.Retrying(
        stop=tenacity.stop_after_delay(timeout),
        wait=tenacity.wait_fixed(interval),
        retry=tenacity.retry_if_result(lambda result: not result),
        retry_error_callback=lambda _: None,
        reraise=True,
    )
    return loop(ready)
