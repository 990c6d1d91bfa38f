"""The simulated player against streams whose gaps are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from higgs_image.bench.player import play

Floats = npt.NDArray[np.float64]


def stream(*arrivals: float, chunk_s: float = 0.1) -> tuple[Floats, Floats]:
    return np.array(arrivals), np.cumsum(np.full(len(arrivals), chunk_s))


def test_steady_stream_has_no_underrun() -> None:
    found = play(*stream(*np.arange(0.3, 1.3, 0.1)), 0.2)
    assert found.started_s == pytest.approx(0.4)
    assert found.underruns == 0
    assert found.stalled_s == 0.0


def test_late_chunk_within_the_buffer_is_not_heard() -> None:
    assert play(*stream(0.1, 0.2, 0.3, 0.49, 0.5), 0.2).underruns == 0


def test_gap_is_heard_once_and_as_long_as_it_was() -> None:
    # Playing begins at 0.2 and is dry at 0.5; the buffer is full again at 1.1.
    found = play(*stream(0.1, 0.2, 0.3, 1.0, 1.1, 1.2), 0.2)
    assert found.underruns == 1
    assert found.stalled_s == pytest.approx(0.6)


def test_each_gap_counts() -> None:
    assert play(*stream(0.1, 0.2, 1.0, 1.1, 2.0, 2.1), 0.2).underruns == 2


def test_slow_stream_breaks_off_again_and_again() -> None:
    assert play(*stream(*np.arange(0.0, 4.0, 0.2)), 0.2).underruns > 5


def test_bigger_buffer_bridges_the_gap() -> None:
    arrivals = (0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 1.0)
    assert play(*stream(*arrivals), 0.1).underruns == 1
    assert play(*stream(*arrivals), 0.5).underruns == 0


def test_sound_shorter_than_the_buffer_is_played_at_its_end() -> None:
    found = play(*stream(0.4), 0.2)
    assert (found.started_s, found.underruns) == (0.4, 0)
