"""Try again what failed for a reason that passes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from higgs_image.errors import (
    HiggsError,
)

log = logging.getLogger(__name__)

WAIT = 1.0
"""Seconds before the second attempt; doubled before each further one."""

ATTEMPTS = 4
"""How often a transient failure is tried; what has arrived by then is not sent again."""


def attempts(what: str) -> Iterator[_Attempt]:
    """Yield attempts until one succeeds; waits longer each time between transient failures."""
    for number in range(1, ATTEMPTS + 1):
        attempt = _Attempt(what, last=number == ATTEMPTS, wait=WAIT * 2 ** (number - 1))
        yield attempt
        if attempt.done:
            return


class _Attempt:
    def __init__(self, what: str, *, last: bool, wait: float) -> None:
        self.done = False
        self._what, self._last, self._wait = what, last, wait

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            self.done = True
            return False
        if self._last or not isinstance(error, HiggsError) or not error.transient:
            return False
        log.info("%s: %s; trying again in %.1f s", self._what, error.message, self._wait)
        time.sleep(self._wait)
        return True
