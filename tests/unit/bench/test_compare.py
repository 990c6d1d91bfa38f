"""Comparing two results: real changes are found, noise is not taken for one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from higgs_image.bench.compare import compare, markdown, text
from higgs_image.bench.result import BenchResult
from higgs_image.verdict import Verdict
from tests.unit.bench.made import made_result, made_round

QUIET = (1.0, 1.01, 0.99, 1.005, 0.995)


def result(factors: Sequence[float], **settings: int) -> BenchResult:
    """Return a result whose rounds are slower by these factors."""
    found = made_result([made_round(audio=20 / x, first=0.2 * x) for x in factors])
    return msgspec.structs.replace(
        found, settings=msgspec.structs.replace(found.settings, **settings)
    )


def test_same_server_passes() -> None:
    found = compare(result(QUIET), result(QUIET[::-1]))
    assert found.verdict is Verdict.PASS
    assert all(x.low is not None and x.low <= 0 <= (x.high or 0) for x in found.changes)


def test_slower_server_fails() -> None:
    found = compare(result(QUIET), result([1.3 * x for x in QUIET]))
    assert found.verdict is Verdict.FAIL
    assert found.changes[0].worse == pytest.approx(0.3, abs=0.02)
    assert "audio s/s at 8 at once" in found.reason


def test_faster_server_passes() -> None:
    assert compare(result(QUIET), result([0.7 * x for x in QUIET])).verdict is Verdict.PASS


def test_noise_is_undecided() -> None:
    noisy = (1.0, 1.4, 0.7, 1.2, 0.8)
    found = compare(result(noisy), result(noisy[::-1]))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "within the noise" in found.reason


def test_noise_of_both_in_step_does_not_hide_a_change() -> None:
    """Paired rounds: what slows both down is no difference between them."""
    noisy = (1.0, 1.4, 0.7, 1.2, 0.8)
    found = compare(result(noisy), result([1.2 * x for x in noisy]))
    assert found.verdict is Verdict.FAIL


def test_true_change_within_the_margin_is_not_called_worse() -> None:
    """Of 200 comparisons of equal servers, about 5 % may be wrong, and none fails at 5 % margin."""
    random = np.random.default_rng(4)
    verdicts = []
    for _ in range(200):
        old, new = (result(random.normal(1, 0.02, 5).tolist()) for _ in range(2))
        verdicts.append(compare(old, new).verdict)
    assert verdicts.count(Verdict.FAIL) <= 2
    assert verdicts.count(Verdict.PASS) > 120


def test_too_few_rounds_are_undecided() -> None:
    found = compare(result(QUIET[:2]), result([1.5, 1.5]))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "--rounds" in found.reason


def test_other_settings_are_not_compared() -> None:
    found = compare(result(QUIET), result(QUIET, seed=2))
    assert (found.verdict, found.changes) == (Verdict.INCONCLUSIVE, [])
    assert found.reason == "not measured alike: seed"


def test_comparison_is_shown() -> None:
    found = compare(result(QUIET), result([1.3 * x for x in QUIET]))
    assert "compared fail: worse: audio s/s" in text(found)
    assert "| 8 at once | audio s/s |" in markdown(found)
