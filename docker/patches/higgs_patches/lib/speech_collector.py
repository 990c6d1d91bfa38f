"""Collect what the engine says of a speech request, for a reader that is woken when it can go on.

A step of the engine gives a frame to each listener, and only every 25th or so completes a chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

ENOUGH: ContextVar[Callable[[int], bool] | None] = ContextVar("enough", default=None)
"""Set where a request is generated: whether its reader can go on with as many frames."""


class SpeechCollector:
    """Stands in for vLLM's RequestOutputCollector.

    Args:
        enough: says whether the reader can go on with as many frames.
    """

    def __init__(self, enough: Callable[[int], bool]) -> None:
        self._enough = enough
        self._tokens: list[int] = []
        self._frames: list[list[int]] = []
        self._output: Any = None
        self._ready = asyncio.Event()

    def keep(self, tokens: list[int], frame: list[int] | None) -> bool:
        """Keep what a step gave for the next output, unless one is to be put, to wake the reader.

        While one waits for the reader, he gets the rest with it.
        """
        frames = [] if frame is None else [frame]
        if self._output is None and self._enough(len(self._frames) + len(frames)):
            return False
        self._tokens += tokens
        self._frames += frames
        return True

    def put(self, output: Any) -> None:
        """Wake the reader with the last step's output, which gets all that was kept."""
        [completion] = output.outputs
        self._tokens += completion.token_ids
        self._frames += completion.mm_token_ids or ()
        self._output = output
        self._ready.set()

    async def get(self) -> Any:
        """Wait for an output and return it."""
        while (output := self.get_nowait()) is None:
            await self._ready.wait()
        return output

    def get_nowait(self) -> Any:
        """Return the output that waits, or None."""
        output = self._output
        if output is not None:
            [completion] = output.outputs
            completion.token_ids, completion.mm_token_ids = self._tokens, self._frames
            self._tokens, self._frames, self._output = [], [], None
            self._ready.clear()
        return output
