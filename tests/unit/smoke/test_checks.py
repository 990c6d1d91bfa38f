"""The checks that listen: they decide on real weights only, which no other test has."""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from typing import Any

import pytest

from higgs_image.smoke import checks, transcript
from higgs_image.smoke.audio import RATE, Sound
from higgs_image.smoke.checks import TEXT, Context, Failed, Undecided


def spoken(*parts: tuple[float, float]) -> Sound:
    """A tone: seconds and level of each part, of a full scale of 1."""
    samples = array("h")
    for seconds, level in parts:
        wave = (32_768 * level * math.sin(x / 8) for x in range(int(seconds * RATE)))
        samples.extend(max(-32_768, min(32_767, int(x))) for x in wave)
    return Sound(samples)


def context(*, real: bool = True, sound: Sound | None = None) -> Context:
    server: Any = None
    found = Context(server, Path("/nowhere"), real)
    if sound is not None:
        found.spoken["wav"] = sound
    return found


def test_good_sound() -> None:
    figures = checks.good_sound(context(sound=spoken((2, 0.3), (0.7, 0), (1, 0.3), (0.4, 0))))
    assert figures["longest_silence_s"] == 0.7 and figures["silence_at_end_s"] == 0.4


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (spoken((3, 0.005)), "it is silent"),
        (spoken((3, 2.0)), "it is clipped"),
        (spoken((2, 0.3), (1.6, 0.001)), "ends with 1.6 s of silence"),
    ],
)
def test_bad_sound(sound: Sound, reason: str) -> None:
    with pytest.raises(Failed, match=reason):
        checks.good_sound(context(sound=sound))


def test_what_random_weights_leave_open() -> None:
    for check in (checks.good_sound, checks.right_words):
        with pytest.raises(Undecided, match="random weights"):
            check(context(real=False, sound=spoken((3, 0.3))))
    with pytest.raises(Undecided, match="no good recording"):
        checks.good_sound(context())


@pytest.mark.parametrize("heard", [TEXT, TEXT.lower().replace(",", "")])
def test_the_right_words(heard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "hear", lambda _: heard)
    assert checks.right_words(context())["word_errors"] == 0


def test_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "hear", lambda _: "The image starts and then it hums.")
    with pytest.raises(Failed, match="of the words are wrong: 'The image starts and then"):
        checks.right_words(context())


def test_no_speech_recogniser() -> None:
    """It is optional: this environment has none."""
    with pytest.raises(Undecided, match="pip install faster-whisper"):
        checks.right_words(context())
