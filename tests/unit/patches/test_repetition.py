"""The settings of repetition-aware sampling."""

from __future__ import annotations

from typing import Any

import pytest
from higgs_patches.lib import repetition
from higgs_patches.lib.repetition import Limit, of_request, of_server


def test_server_has_the_reference_engines_values() -> None:
    assert of_server({}) == Limit(window=7, repeats=2)
    assert of_server({"HIGGS_RAS_WIN_LEN": " ", "HIGGS_RAS_WIN_MAX_NUM_REPEAT": ""}) == Limit()


def test_server_takes_its_environment() -> None:
    environ = {"HIGGS_RAS_WIN_LEN": "12", "HIGGS_RAS_WIN_MAX_NUM_REPEAT": "3"}
    assert of_server(environ) == Limit(window=12, repeats=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HIGGS_RAS_WIN_LEN", "seven"),
        ("HIGGS_RAS_WIN_LEN", "-1"),
        ("HIGGS_RAS_WIN_LEN", "7.0"),
        ("HIGGS_RAS_WIN_LEN", "251"),
        ("HIGGS_RAS_WIN_MAX_NUM_REPEAT", "0"),
    ],
)
def test_server_refuses_nonsense(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name if value != "251" and value != "0" else "ras_win"):
        of_server({name: value})


def test_request_goes_before_the_server_field_by_field() -> None:
    server = Limit(10, 4)
    assert of_request(None, server) == server
    assert of_request({"audio": True}, server) == server
    assert of_request({"ras_win_len": 3}, server) == Limit(3, 4)
    assert of_request({"ras_win_max_num_repeat": 1, "ras_win_len": None}, server) == Limit(10, 1)


def test_a_window_of_0_turns_it_off() -> None:
    assert of_request({"ras_win_len": 0}, Limit()) is None
    assert of_request({}, Limit(window=0)) is None
    assert of_request({"ras_win_len": 7}, Limit(window=0)) == Limit()


@pytest.mark.parametrize("value", [-1, 1.5, "7", True, repetition.LONGEST + 1, [7], float("nan")])
@pytest.mark.parametrize("name", ["ras_win_len", "ras_win_max_num_repeat"])
def test_request_with_nonsense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} has to be a whole number from"):
        of_request({name: value}, Limit())
