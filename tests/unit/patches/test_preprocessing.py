"""Requests are kept apart, ended when their reader goes, and encoded once."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

import numpy as np
import pytest
from higgs_patches.lib.errors import RefusedError
from higgs_patches.lib.speech_collector import ENOUGH, SpeechCollector
from higgs_patches.patches import preprocessing


class Engine:
    """Generates until it is told to stop, and notes who runs and who was aborted."""

    def __init__(self) -> None:
        self.running: dict[str, Any] = {}
        self.aborted: list[str] = []
        self.output_processor = types.SimpleNamespace(
            request_states=self.running, parent_requests={}
        )

    @preprocessing.with_unique_id
    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, answers: int = 3
    ) -> AsyncGenerator[Any, None]:
        if prompt == "bad":
            raise ValueError("refused")
        if request_id in self.running:
            raise ValueError(f"Request id {request_id} already running.")
        self.running[request_id] = prompt
        for number in range(answers):
            await asyncio.sleep(0)
            yield types.SimpleNamespace(request_id=request_id, number=number)
        del self.running[request_id]

    async def abort(self, request_id: str) -> None:
        await asyncio.sleep(0)
        del self.running[request_id]
        self.aborted.append(request_id)


def test_outputs_bear_the_clients_id() -> None:
    async def run() -> list[str]:
        engine = Engine()
        ids = [output.request_id async for output in engine.generate("a", None, "mine")]
        assert not engine.running and not engine.aborted
        return ids

    assert asyncio.run(run()) == ["mine"] * 3


def test_two_requests_with_one_id_both_run() -> None:
    async def run() -> list[list[int]]:
        engine = Engine()

        async def read() -> list[int]:
            return [output.number async for output in engine.generate("a", None, "same")]

        return list(await asyncio.gather(read(), read()))

    assert asyncio.run(run()) == [[0, 1, 2]] * 2


def test_reader_that_leaves_between_outputs_ends_its_request() -> None:
    """As a server does whose client hangs up while the sound is being decoded."""

    async def run() -> None:
        engine = Engine()
        other = engine.generate("b", None, "id", answers=100)
        await anext(other)
        outputs = engine.generate("a", None, "id", answers=100)
        await anext(outputs)
        await outputs.aclose()
        assert list(engine.running.values()) == ["b"]
        assert len(engine.aborted) == 1 and engine.aborted[0].startswith("id-")
        await other.aclose()
        assert not engine.running

    asyncio.run(run())


def test_reader_that_is_cancelled_ends_its_request() -> None:
    async def run() -> None:
        engine = Engine()

        async def read() -> None:
            async for _ in engine.generate("a", None, "id", answers=10**9):
                pass

        task = asyncio.create_task(read())
        while not engine.running:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not engine.running

    asyncio.run(run())


def test_reader_that_forgets_its_request_ends_it() -> None:
    async def run() -> None:
        engine = Engine()

        async def leave() -> None:
            async for _ in engine.generate("a", None, "id", answers=10**9):
                break

        await leave()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not engine.running

    asyncio.run(run())


def test_refused_request_aborts_nobody() -> None:
    async def run() -> None:
        engine = Engine()
        with pytest.raises(ValueError, match="refused"):
            await anext(engine.generate("bad", None, "id"))
        assert not engine.aborted

    asyncio.run(run())


def test_only_who_says_what_is_enough_gets_a_collector_for_it(without_vllm: None) -> None:
    async def add_request(request: Any, parent: None, index: int, queue: Any) -> None:
        added.append(queue)

    added: list[Any] = []
    processor = types.SimpleNamespace(process_inputs=lambda *_: None)
    engine = types.SimpleNamespace(processor=processor, _add_request=add_request)
    params = types.SimpleNamespace(output_kind=None, n=1)
    for enough in (None, lambda frames: False):
        token = ENOUGH.set(enough)
        queue = asyncio.run(preprocessing.add_request(engine, "id", {}, params))
        ENOUGH.reset(token)
        assert isinstance(queue, SpeechCollector) == bool(enough)
        assert added.pop() is queue


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, attribute in (("output_processor", "RequestOutputCollector"),
                            ("parallel_sampling", "ParentRequest")):  # fmt: skip
        module: Any = types.ModuleType(name)
        setattr(module, attribute, lambda **_: None)
        monkeypatch.setitem(sys.modules, f"vllm.v1.engine.{name}", module)


@pytest.mark.parametrize(
    ("cause", "kind"),
    [(RefusedError("no memory", status=HTTPStatus.SERVICE_UNAVAILABLE), RefusedError),
     (KeyError("other"), RuntimeError)],
)  # fmt: skip
def test_a_refusal_of_the_audio_tokenizer_reaches_the_client(
    cause: Exception, kind: type[Exception], without_vllm: None
) -> None:
    """vLLM wraps whatever is raised while it makes a prompt's inputs."""

    def process_inputs(*_: Any) -> None:
        raise RuntimeError("Failed to apply HFHiggsAudioProcessor") from cause

    engine = types.SimpleNamespace(processor=types.SimpleNamespace(process_inputs=process_inputs))
    params = types.SimpleNamespace(output_kind=None, n=1)
    with pytest.raises(kind, match=r"no memory|Failed to apply"):
        asyncio.run(preprocessing.add_request(engine, "id", {}, params))


class Codec:
    """Notes what it was asked to encode."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    @preprocessing.cached
    def encode(self, audio: Any, sr: Any = None, loudness_normalize: bool = False) -> Any:
        self.asked.append(audio)
        codes = types.SimpleNamespace(of=audio)
        codes.cpu = lambda: codes
        return codes


def test_an_audio_is_encoded_once() -> None:
    codec = Codec()
    sound = np.arange(100, dtype=np.float32)
    first = codec.encode(sound, 24000)
    assert codec.encode(sound.copy(), 24000) is first and len(codec.asked) == 1
    assert codec.encode(np.arange(200, dtype=np.float32)[::2] / 2, 24000) is first


def test_anything_different_is_encoded_anew() -> None:
    codec = Codec()
    sound = np.arange(100, dtype=np.float32)
    codec.encode(sound, 24000)
    codec.encode(sound, 16000)
    codec.encode(sound, 24000, loudness_normalize=True)
    codec.encode(sound.astype(np.float64), 24000)
    codec.encode(sound.reshape(2, 50), 24000)
    sound[50] = 0
    codec.encode(sound, 24000)
    Codec().encode(sound, 24000)
    codec.encode("a path", None)
    codec.encode("a path", None)
    assert len(codec.asked) == 8


def test_no_more_are_kept_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "AUDIOS", 3)
    codec = Codec()
    sounds = [np.full(10, number, dtype=np.float32) for number in range(4)]
    for sound in (*sounds[:3], sounds[0], sounds[3]):
        codec.encode(sound)
    assert len(codec.asked) == 4
    codec.encode(sounds[0])  # was used later than 1
    assert len(codec.asked) == 4
    codec.encode(sounds[1])
    assert len(codec.asked) == 5
