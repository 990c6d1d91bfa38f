"""The page plays what the service sends: while it is made, in every format, every sample."""

from __future__ import annotations

import io
import wave

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import expect

from tests.page.site import seconds_of
from tests.page.visit import Visit, without_silence

TEXT = "The keeper had kept a diary for forty years. On most days it said three words."
FORMATS = ("wav", "pcm", "mp3", "flac", "opus", "aac")


def wav_samples(content: bytes) -> NDArray[np.int16]:
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getframerate(), file.getnchannels()) == (24_000, 1)
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


def seconds_in(content: bytes, form: str) -> float:
    if form == "pcm":
        return len(content) / 2 / 24_000
    with av.open(io.BytesIO(content), "r") as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


def test_sound_is_heard_before_the_speech_is_complete(visit: Visit) -> None:
    visit.ready().speak(TEXT)
    visit.sounding()
    assert visit.page.get_by_role("button", name="Cancel").is_visible()  # it is still being made
    visit.finished()


@pytest.mark.flaky(reruns=3, only_rerun="AssertionError")  # a busy machine plays with gaps
def test_every_sample_is_heard_once_and_in_order(visit: Visit) -> None:
    visit.ready().speak(TEXT)
    visit.played()
    assert np.array_equal(visit.heard(), without_silence(wav_samples(visit.download())))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_played_and_can_be_saved(visit: Visit, form: str) -> None:
    visit.ready().speak(TEXT, Format=form)
    visit.played()
    seconds = seconds_in(visit.download(), form)
    tone = seconds_of(TEXT)
    assert abs(len(visit.heard()) / 24_000 - tone) < 0.15  # codecs ring at both ends
    assert tone <= seconds < tone + 0.4  # there is silence around it
    assert abs(visit.seconds("length") - seconds) < 0.15


def test_a_compressed_format_is_heard_before_it_is_complete(visit: Visit) -> None:
    visit.ready().speak(TEXT, Format="mp3")
    visit.sounding()
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
    assert abs(len(visit.heard()) / 24_000 - seconds_of(TEXT)) < 0.1


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
