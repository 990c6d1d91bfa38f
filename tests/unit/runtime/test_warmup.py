"""The warm-up, called with a fake application."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import numpy as np
import pytest
from higgs_patches.lib.audio import decoding
from higgs_patches.lib.audio.codec_thread import Piece
from higgs_patches.lib.audio.decoding import AudioDecoder
from higgs_runtime import warmup
from higgs_runtime.control import WARMUP

MANY = [{"id": f"v{number}", "kind": "recording"} for number in range(40)]


@pytest.mark.parametrize(
    ("voices", "expected"),
    [
        (["plain", "names"], ["plain pcm", "plain wav", "plain mp3", "names pcm"]),
        ({"voices": [{"id": "d", "kind": "description"}, {"id": "r", "kind": "recording"}]},
         ["r pcm", "r wav", "r mp3"]),
        ({"voices": [{"id": "d", "kind": "description"}]}, ["d pcm", "d wav", "d mp3"]),
        ({"voices": MANY}, ["v0 pcm", "v0 wav", "v0 mp3", *(f"v{n} pcm" for n in range(1, 16))]),
    ],
)  # fmt: skip
def test_warm_up_uses_each_format_and_voice_without_logging_requests(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    voices: object,
    expected: list[str],
) -> None:
    monkeypatch.setenv(WARMUP, "10")
    levels: list[int] = []
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        levels.append(logging.getLogger("vllm.entrypoints.logger").getEffectiveLevel())
        if scope["path"] == "/v1/audio/speech":
            request = json.loads((await receive())["body"])
            asked.append(f"{request['voice']} {request['response_format']}")
        body = {"/v1/models": {"data": [{"id": "m"}]}, "/v1/audio/voices": voices}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body.get(scope["path"]))
                    .encode()})  # fmt: skip

    logging.getLogger("vllm").setLevel(logging.INFO)
    caplog.set_level(logging.INFO, "vllm.higgs_runtime")
    asyncio.run(warmup.warm_up(app, None))
    assert asked == expected
    assert set(levels) == {logging.WARNING}
    assert logging.getLogger("vllm").level == logging.INFO
    assert "warm-up took" in caplog.text and "mp3" in caplog.text


class Lengths:
    """A codec that notes the lengths of what it decodes."""

    num_codebooks, codebook_size, sampling_rate = 8, 1024, 24_000

    def __init__(self) -> None:
        self.seen: set[tuple[int, bool]] = set()

    def decode(self, pieces: list[Piece]) -> list[tuple[Any, Any]]:
        """Return silence; the state is whether there was a piece before."""
        self.seen |= {(piece.codes.shape[1], piece.state is None) for piece in pieces}
        return [(np.zeros(960 * piece.codes.shape[1], np.int16), True) for piece in pieces]


def lengths(rows: int) -> set[tuple[int, bool]]:
    """Lengths that are decoded while so many rows of codes come far faster than they are heard."""

    async def run() -> set[tuple[int, bool]]:
        codec = Lengths()
        decoder = AudioDecoder(codec, bos_id=1024, eos_id=1025)
        for row in [[1024] * 8, *[[1] * 8] * (rows - 1)]:
            await decoder.feed([row])
        return codec.seen

    return asyncio.run(run())


def test_warm_up_reaches_the_lengths_of_long_answers() -> None:
    spoken = 25 * len(warmup.LONG_TEXT) / (15 * 1.5)  # rows of a speaker who is 1.5 times as fast
    reached = lengths(min(warmup.LONG_TOKENS, int(spoken)))
    assert reached == lengths(60 * 25)
    assert max(reached)[0] == max(decoding.LENGTHS)
