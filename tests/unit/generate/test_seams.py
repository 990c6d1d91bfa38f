"""Pieces are joined without a click, without a lost word, and with their pauses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from higgs_generate import seams
from higgs_generate.seams import FRAME, Joiner, Samples, joined

RATE = 24_000
Make = Callable[[int], Samples]
rng = np.random.default_rng(7)


def noise(count: int, level: int = 8000) -> Samples:
    """Band-limited noise: the steps of white noise would hide any click."""
    raw = np.convolve(rng.normal(size=count + 31), np.hanning(32), "valid")
    return np.asarray(raw / np.abs(raw).max() * level, "<i2")


def tone(count: int, pitch: float = 180.0) -> Samples:
    return (8000 * np.sin(np.arange(count) * 2 * np.pi * pitch / RATE)).astype("<i2")


def silence(count: int) -> Samples:
    return rng.integers(-30, 30, count).astype("<i2")


def piece(before: int, sound: Samples, after: int) -> Samples:
    return np.concatenate((silence(before), sound, silence(after)))


def join(*pieces: Samples, paragraph: bool = False) -> Samples:
    pcm = joined([x.tobytes() for x in pieces], paragraph=paragraph)
    return np.frombuffer(pcm, "<i2")


def largest_step(samples: Samples) -> int:
    return int(np.abs(np.diff(samples.astype(np.int32))).max())


def find(whole: Samples, part: Samples) -> int:
    """Return where a part stands, sample by sample."""
    place = whole.tobytes().find(part.tobytes())
    while place % 2:  # not at a sample
        place = whole.tobytes().find(part.tobytes(), place + 1)
    assert place >= 0, "a part is lost or changed"
    return place // 2


def soft(samples: Samples) -> Samples:
    """Return a sound that begins and ends as speech does, within 10 ms."""
    ramp = np.linspace(0, 1, FRAME)
    return (samples * np.concatenate((ramp, np.ones(len(samples) - 2 * FRAME), ramp[::-1]))).astype(
        "<i2"
    )


@pytest.mark.parametrize("make", [noise, tone])
@pytest.mark.parametrize("after", [100, 2400, 30_000])
@pytest.mark.parametrize("before", [100, 2400, 30_000])
def test_no_click_and_every_sample_is_kept(make: Make, before: int, after: int) -> None:
    first, second = soft(make(20_000)), soft(make(25_000))
    whole = join(piece(0, first, after), piece(before, second, 0))
    assert largest_step(whole) <= max(largest_step(first), largest_step(second), 60)
    assert find(whole, first) == 0 and find(whole, second[FRAME:]) > len(first)


@pytest.mark.parametrize("make", [noise, tone])
@pytest.mark.parametrize("cut", [0, 1, 17, 240])
def test_no_click_where_a_piece_ends_within_sound(make: Make, cut: int) -> None:
    """As on the CPU device, whose noise begins and ends at once; 20 ms may go at such an end."""
    first, second = make(20_000 + cut), make(25_000 - cut)
    whole = join(first, second)
    assert largest_step(whole) <= max(largest_step(first), largest_step(second))
    edge = 2 * FRAME
    assert find(whole, first[: -edge - FRAME]) == 0
    assert find(whole, second[edge:]) > len(first) - edge
    assert len(whole) - len(first) - len(second) == pytest.approx(seams.SENTENCE[0], abs=2 * edge)


@pytest.mark.parametrize(
    ("after", "before", "paragraph", "low", "high"),
    [
        (0, 0, False, 0.15, 0.16),
        (2400, 2400, False, 0.19, 0.21),  # a natural pause is kept as it is
        (9600, 4800, False, 0.58, 0.61),
        (48_000, 48_000, False, 0.68, 0.71),  # a long one is shortened
        (2400, 2400, True, 0.39, 0.41),
        (48_000, 48_000, True, 1.18, 1.21),
    ],
)
def test_pause(after: int, before: int, paragraph: bool, low: float, high: float) -> None:
    first, second = tone(24_000), tone(24_000)
    whole = join(piece(0, first, after), piece(before, second, 0), paragraph=paragraph)
    seconds = (len(whole) - 48_000) / RATE
    assert low - 2 * FRAME / RATE <= seconds <= high


def test_level_is_kept() -> None:
    loud, quiet = soft(noise(24_000, 12_000)), soft(noise(24_000, 3_000))
    whole = join(piece(0, loud, 2400), piece(2400, quiet, 0))
    assert find(whole, loud) == 0 and find(whole, quiet[FRAME:]) > 24_000


def chunks(pcm: bytes, size: int) -> list[bytes]:
    """Return chunks of a size; of a very small one only next to the seams, to save time."""
    near = 4000 if size < 100 else len(pcm)
    first, middle, last = pcm[:near], pcm[near:-near], pcm[max(near, len(pcm) - near) :]
    return [
        *(first[x : x + size] for x in range(0, len(first), size)),
        middle,
        *(last[x : x + size] for x in range(0, len(last), size)),
    ]


@pytest.mark.parametrize("size", [1, 2, 333, 480, 9600, 48_000])
def test_result_does_not_depend_on_the_chunks(size: int) -> None:
    pieces = [
        piece(0, noise(10_001), 30_000), piece(20_000, noise(9_999), 7), piece(0, noise(480), 0),
        silence(3_000), piece(0, noise(12_345), 99),
    ]  # fmt: skip
    joiner = Joiner()
    out = b""
    for number, one in enumerate(pieces):
        if number:
            joiner.end_piece(paragraph=number == 2)
        out += b"".join(map(joiner.feed, chunks(one.tobytes(), size)))
    out += joiner.finish()
    whole = Joiner()
    expected = b""
    for number, one in enumerate(pieces):
        if number:
            whole.end_piece(paragraph=number == 2)
        expected += whole.feed(one.tobytes())
    assert out == expected + whole.finish()


def test_one_piece_stays_as_it_is() -> None:
    one = piece(5000, noise(24_000), 5000)
    assert join(one).tobytes() == one.tobytes()


def test_sound_comes_before_the_end_of_its_piece() -> None:
    joiner = Joiner()
    given = joiner.feed(noise(24_000).tobytes())
    assert len(given) // 2 >= 24_000 - seams.EDGE - FRAME


def test_silent_piece_makes_a_longer_pause_only() -> None:
    first, second = tone(24_000), tone(24_000)
    whole = join(piece(0, first, 2400), silence(12_000), piece(2400, second, 0))
    assert 60_000 <= len(whole) <= 48_000 + seams.SENTENCE[1]
