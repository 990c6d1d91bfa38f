"""The retry policy and the wait loop."""

from __future__ import annotations

import logging
import time

import pytest

from higgs_image import retry
from higgs_image.errors import NetworkError, UsageError


def test_transient_errors_are_tried_again(waits: list[float]) -> None:
    tried = []
    for attempt in retry.attempts("fetch"):
        with attempt:
            tried.append(1)
            if len(tried) < 3:
                raise NetworkError("reset")
    assert len(tried) == 3
    assert waits == [retry.WAIT, retry.WAIT * 2]


def test_last_transient_error_is_raised(
    waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tried = []
    with pytest.raises(NetworkError, match="reset"):
        for attempt in retry.attempts("fetch"):
            with attempt:
                tried.append(1)
                raise NetworkError("reset")
    assert len(tried) == retry.ATTEMPTS == 4
    assert waits == [retry.WAIT, retry.WAIT * 2, retry.WAIT * 4]
    assert caplog.text.count("fetch: reset; trying again") == 3


@pytest.mark.parametrize("error", [UsageError("wrong"), KeyboardInterrupt(), ValueError("bug")])
def test_other_errors_are_raised_at_once(waits: list[float], error: BaseException) -> None:
    with pytest.raises(type(error)):
        for attempt in retry.attempts("fetch"):
            with attempt:
                raise error
    assert waits == []


def test_wait_until_returns_the_result() -> None:
    answers = iter([None, "", "ready"])
    assert retry.wait_until(lambda: next(answers), 5, interval=0.01) == "ready"


def test_wait_until_gives_up_in_time() -> None:
    started = time.monotonic()
    assert retry.wait_until(lambda: None, 0.2, interval=0.05) is None
    assert time.monotonic() - started < 10


def test_wait_until_passes_errors_on() -> None:
    with pytest.raises(ZeroDivisionError):
        retry.wait_until(lambda: 1 // 0, 5)
