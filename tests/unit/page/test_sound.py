"""The page plays what the service sends: while it is made, in every format, every sample."""

from __future__ import annotations

import io
import wave

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import expect

from tests.unit.page.visit import Visit

TEXT = "The keeper had kept a diary for forty years. On most days it said three words."
FORMATS = ("wav", "pcm", "mp3", "flac", "opus", "aac")


def wav_samples(content: bytes) -> NDArray[np.int16]:
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getframerate(), file.getnchannels()) == (24_000, 1)
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


def trimmed(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    sounding = np.flatnonzero(samples)
    return samples[sounding[0] : sounding[-1] + 1]


def test_sound_is_heard_before_the_speech_is_complete(visit: Visit) -> None:
    visit.ready().speak(TEXT)
    expect(visit.page.get_by_role("button", name="Pause")).to_be_enabled()
    visit.page.wait_for_timeout(1000)
    assert visit.seconds("at") > 0.3
    assert visit.page.get_by_role("button", name="Cancel").is_visible()  # it is still being made
    visit.finished()


def test_every_sample_is_heard_once_and_in_order(visit: Visit) -> None:
    visit.ready().speak(TEXT)
    visit.played()
    made = trimmed(wav_samples(visit.download()))
    heard = visit.heard()
    assert len(heard) == len(made)
    assert np.abs(heard.astype(int) - made).max() <= 1


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_played_and_can_be_saved(visit: Visit, form: str) -> None:
    visit.ready().speak(TEXT, Format=form)
    visit.played()
    content = visit.download()
    with av.open(io.BytesIO(content), format="s16le" if form == "pcm" else None, options=raw(form)) as file:
        seconds = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
    heard = len(visit.heard()) / 24_000
    assert 3 < seconds
    assert abs(heard - seconds) < 0.3  # silence at both ends is not counted as heard
    assert abs(visit.seconds("length") - seconds) < 0.15


def raw(form: str) -> dict[str, str]:
    return {"sample_rate": "24000"} if form == "pcm" else {}


def test_a_compressed_format_is_heard_before_it_is_complete(visit: Visit) -> None:
    visit.ready().speak(TEXT, Format="mp3")
    expect(visit.page.get_by_role("button", name="Pause")).to_be_enabled()
    assert visit.page.get_by_role("button", name="Cancel").is_visible()


def test_pause_stops_the_sound_and_play_goes_on_there(visit: Visit) -> None:
    visit.ready().speak(TEXT)
    visit.finished()
    visit.page.get_by_role("button", name="Pause").click()
    at = visit.seconds("at")
    visit.page.wait_for_timeout(700)
    assert abs(visit.seconds("at") - at) < 0.11
    visit.page.get_by_role("button", name="Play", exact=True).click()
    visit.played()
    assert len(visit.heard()) > 24_000 * (visit.seconds("length") - 0.5)


def test_a_place_in_the_waveform_is_played_from_there(visit: Visit) -> None:
    visit.ready().speak(TEXT)
    visit.played()
    slider = visit.page.get_by_role("slider", name="Position")
    slider.fill("3")
    visit.page.get_by_role("button", name="Play", exact=True).click()
    expect(visit.page.get_by_role("button", name="Pause")).to_be_visible()
    assert visit.seconds("at") >= 3


def test_times_are_shown(visit: Visit) -> None:
    visit.ready().speak(TEXT)
    visit.finished()
    shown = {
        name: float(visit.page.locator(f"#{name}").inner_text().removesuffix(" s"))
        for name in ("first-sound", "total", "sound", "factor")
    }
    assert 0 < shown["first-sound"] < shown["total"]
    assert abs(shown["factor"] - shown["total"] / shown["sound"]) < 0.02
