"""A reader of speech is woken when it can go on, and gets everything."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from higgs_patches.lib.speech_collector import SpeechCollector
from higgs_patches.patches import speech_outputs


class State:
    """A request's state in the server, which counts the outputs that it makes."""

    def __init__(self, queue: Any) -> None:
        self.queue, self.made = queue, 0

    @speech_outputs.if_enough
    def make_request_output(
        self, tokens: list[int], finish: str | None, stop: None, frame: list[int] | None = None
    ) -> Any:
        self.made += 1
        frames = None if frame is None else [frame]
        completion = SimpleNamespace(token_ids=tokens, mm_token_ids=frames, finish_reason=finish)
        return SimpleNamespace(outputs=[completion])

    def step(self, number: int, finish: str | None = None) -> None:
        """As the server does for each step of the engine; the first one has no frame."""
        frame = [number] * 8 if number else None
        if output := self.make_request_output([number], finish, None, frame):
            self.queue.put(output)


def taken(output: Any) -> tuple[list[int], list[int], str | None]:
    [completion] = output.outputs
    frames = [frame[0] for frame in completion.mm_token_ids]
    return completion.token_ids, frames, completion.finish_reason


def test_an_output_is_made_when_there_is_enough() -> None:
    queue = SpeechCollector(lambda frames: frames >= 3)
    state = State(queue)
    for number in range(3):
        state.step(number)
    assert queue.get_nowait() is None
    state.step(3)
    assert state.made == 1
    assert taken(queue.get_nowait()) == ([0, 1, 2, 3], [1, 2, 3], None)
    assert queue.get_nowait() is None


def test_one_output_waits_for_a_busy_reader_and_grows() -> None:
    queue = SpeechCollector(lambda frames: frames >= 2)
    state = State(queue)
    for number in range(8):
        state.step(number)
    assert state.made == 1
    assert taken(queue.get_nowait()) == (list(range(8)), list(range(1, 8)), None)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_end_always_comes(steps: int) -> None:
    queue = SpeechCollector(lambda frames: frames >= 3)
    state = State(queue)
    for number in range(steps - 1):
        state.step(number)
    state.step(steps - 1, "stop")
    assert taken(queue.get_nowait()) == (list(range(steps)), list(range(1, steps)), "stop")


def test_a_reader_that_waits_is_woken_once() -> None:
    async def run() -> list[Any]:
        queue = SpeechCollector(lambda frames: frames >= 2)
        state = State(queue)
        reader = asyncio.create_task(queue.get())
        for number in range(2):
            state.step(number)
            await asyncio.sleep(0)
            assert not reader.done()
        state.step(2)
        first = await asyncio.wait_for(reader, 10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 0.001)
        state.step(3, "length")
        return [taken(first), taken(await queue.get())]

    assert asyncio.run(run()) == [([0, 1, 2], [1, 2], None), ([3], [3], "length")]


def test_other_requests_get_each_step() -> None:
    state = State(SimpleNamespace(put=lambda output: None))
    for number in range(5):
        state.step(number)
    assert state.made == 5
