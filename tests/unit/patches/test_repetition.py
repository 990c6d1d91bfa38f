"""The settings of repetition-aware sampling."""

from __future__ import annotations

from typing import Any

import pytest
from higgs_patches.lib import repetition
from higgs_patches.lib.repetition import RepetitionLimit, of_request


def test_request_goes_before_the_server_field_by_field() -> None:
    server = RepetitionLimit(10, 4)
    assert of_request(None, server) == server
    assert of_request({"audio": True}, server) == server
    assert of_request({"ras_win_len": 3}, server) == RepetitionLimit(3, 4)
    assert of_request(
        {"ras_win_max_num_repeat": 1, "ras_win_len": None}, server
    ) == RepetitionLimit(10, 1)


def test_a_window_of_0_turns_it_off() -> None:
    assert of_request({"ras_win_len": 0}, RepetitionLimit()) is None
    assert of_request({}, RepetitionLimit(window=0)) is None
    assert of_request({"ras_win_len": 7}, RepetitionLimit(window=0)) == RepetitionLimit()


@pytest.mark.parametrize("value", [-1, 1.5, "7", True, repetition.LONGEST + 1, [7], float("nan")])
@pytest.mark.parametrize("name", ["ras_win_len", "ras_win_max_num_repeat"])
def test_request_with_nonsense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*; expected a whole number from"):
        of_request({name: value}, RepetitionLimit())
