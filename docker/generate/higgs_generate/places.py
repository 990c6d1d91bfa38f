"""Places at the server: so many requests run at once, so many wait in order, others are refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from http import HTTPStatus

from higgs_generate.failures import RetryLaterError

WAIT_SECONDS = 60.0
"""Longest wait: RunPod's proxy cuts an answer whose first byte takes longer than 100 s."""


class Places:
    """A bounded number of places with a bounded queue; as a context it takes one.

    Args:
        running: places.
        queue: requests that may wait.

    Attributes:
        taken: places that are taken.
    """

    def __init__(self, running: int, queue: int) -> None:
        self._running = running
        self._queue = queue
        self.taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def require_room(self, count: int = 1) -> None:
        """Refuse so many requests if the queue has no room for them.

        Raises:
            RetryLaterError: it has not.
        """
        if self.taken + self.waiting + count > self._running + self._queue:
            seconds = 1 + self.waiting * 2 // self._running
            raise RetryLaterError(
                f"the service is busy: {self.taken} requests run and {self.waiting} wait",
                HTTPStatus.TOO_MANY_REQUESTS,
                min(seconds, 30),
            )

    def try_take(self) -> bool:
        """Take a place if one is free and nobody waits; `leave` gives it back."""
        if self.taken >= self._running or self._waiting:
            return False
        self.taken += 1
        return True

    async def take(self, timeout: float = WAIT_SECONDS) -> None:
        """Take a place, in turn; `leave` gives it back.

        Raises:
            RetryLaterError: too many wait already, or it took too long.
        """
        if self.try_take():
            return
        self.require_room()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(timeout):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave()  # it came in the same moment
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise RetryLaterError(
                    f"no place became free within {timeout:g} s", HTTPStatus.TOO_MANY_REQUESTS
                ) from None
            raise

    def leave(self) -> None:
        """Give a place back: to the one who has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # not one that has just given up
                turn.set_result(None)
                return
        self.taken -= 1

    async def __aenter__(self) -> None:
        """Take a place."""
        await self.take()

    async def __aexit__(self, *_: object) -> None:
        """Give it back."""
        self.leave()
