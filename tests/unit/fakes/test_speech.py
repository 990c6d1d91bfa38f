"""The length of speech on the CPU device, which the smoke test expects, too."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from higgs_cpu import speech

from higgs_image.smoke import limits
from higgs_image.smoke.checks.model import LONG_TEXT, TEXT

HEADER, HEADER_END, TURN_END, END, AUDIO_END, FRAME = range(300, 306)
BREAKS = [10, 10]


def turn(role: str, text: str) -> list[int]:
    return [HEADER, *role.encode(), HEADER_END, *BREAKS, *text.encode(), TURN_END]


def prompt(text: str, system: str = "Speak.") -> list[int]:
    return [*turn("system", system), *turn("user", text), HEADER, *b"assistant", HEADER_END]


@pytest.mark.parametrize(
    ("text", "frames"), [("", 10), ("x" * 15, 35), ("x" * 30, 60), ("x" * 150, 260)]
)
def test_length_follows_from_the_last_turn(text: str, frames: int) -> None:
    for system in ("", "Speak.", "x" * 500):
        found = speech.frames_for(prompt(text, system), HEADER, HEADER_END, TURN_END)
        assert found == frames


def test_a_prompt_without_turns_is_spoken_whole() -> None:
    assert speech.frames_for([1] * 15, HEADER, HEADER_END, TURN_END) == 35


@pytest.mark.parametrize(
    "text", ["Hi.", TEXT, LONG_TEXT, "Zwölf Boxkämpfer jagen Viktor", 2000 * "a"]
)
def test_the_smoke_test_expects_this_length(text: str) -> None:
    frames = speech.frames_for(prompt(text), HEADER, HEADER_END, TURN_END)
    assert frames / speech.FRAMES_PER_SECOND == limits.expected_seconds(text)


def test_an_endless_model_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGS_CPU_ENDLESS", "1")
    original = object()
    runner = SimpleNamespace(model=SimpleNamespace(compute_logits=original, config=None))
    speech.end_in_time(runner)
    assert runner.model.compute_logits is original
