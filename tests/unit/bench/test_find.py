"""The search for the most listeners."""

from __future__ import annotations

import asyncio

import pytest

from higgs_image.bench.find import find_capacity
from higgs_image.bench.judge import judge
from higgs_image.bench.load import Load
from higgs_image.bench.result import Capacity, Level
from higgs_image.bench.slo import Slo, parse
from higgs_image.errors import UsageError
from tests.unit.bench.made import made_round


def search(
    capacity: int, most: int = 512, limited_from: int = 10_000
) -> tuple[Capacity, list[int]]:
    asked: list[int] = []

    async def measure(at: int) -> Level:
        asked.append(at)
        limited = "its event loop was late" if at >= limited_from else ""
        first = 0.1 if at <= capacity else 2.0
        return judge(Load(at), [made_round(first=first, limited_by=limited)], Slo())

    return asyncio.run(find_capacity(measure, most, Slo())), asked


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 8, 13, 19])
def test_small_capacity_is_found_exactly(capacity: int) -> None:
    found, asked = search(capacity)
    assert (found.listeners, found.above) == (capacity, capacity + 1)
    assert len(asked) <= 12 and len(set(asked)) == len(asked)


@pytest.mark.parametrize("capacity", [100, 311, 500])
def test_large_capacity_is_found_within_its_precision(capacity: int) -> None:
    found, _ = search(capacity)
    assert capacity * 0.95 <= found.listeners <= capacity
    assert found.sentence.startswith(f"{found.listeners} people can listen at once")


def test_server_too_slow_for_one_is_said() -> None:
    found, _ = search(0)
    assert found.sentence.startswith("Not even one person can listen: the p95 of the first sound")


def test_search_ends_at_the_most() -> None:
    found, asked = search(1000, most=48)
    assert asked[-1] == 48 and found.above is None
    assert found.sentence.startswith("At least 48 people")


def test_limited_tool_ends_the_search() -> None:
    found, _ = search(1000, limited_from=16)
    assert found.listeners == 8
    assert "16 could not be measured: the tool was the limit" in found.sentence


def test_limits_are_read() -> None:
    assert parse("first=0.5, smooth=1,failed=0") == Slo(0.5, 1.0, 0.0)
    assert parse("") == Slo()


@pytest.mark.parametrize("text", ["fast=1", "first=0", "smooth=2", "first=abc", "failed"])
def test_bad_limits_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=rf"--slo.*{text.partition('=')[0]}"):
        parse(text)
