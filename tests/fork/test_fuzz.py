"""Hostile requests against the real server: it stays healthy, right, and says what is wrong."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.support.fuzz import fuzz
from tests.support.hostile import attacks

pytestmark = pytest.mark.fork


def test_500_hostile_requests(server: Any) -> None:
    """HIGGS_FUZZ_SEED tries other requests, HIGGS_FUZZ_COUNT more or fewer of them."""
    report = fuzz(
        server.url,
        count=int(os.environ.get("HIGGS_FUZZ_COUNT", "500")),
        seed=int(os.environ.get("HIGGS_FUZZ_SEED", "1")),
        # How fast this machine is, is not what is tested: a stopped event loop takes much longer.
        healthy_within=5,
        say=True,
    )
    assert not report.findings, report.text()


def test_a_seed_gives_the_same_requests_everywhere() -> None:
    first, second = (list(attacks(3, 50, "m", "10.0.0.1:1")) for _ in range(2))
    assert first == second
    assert list(attacks(4, 50, "m", "10.0.0.1:1")) != first
