"""Voices: their previews, and a person's own recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, expect

from higgs_image.audio import SAMPLE_RATE as RATE
from tests.page.site import Site, wait
from tests.page.visit import Visit, write_tone


def pitch(samples: NDArray[np.int16]) -> float:
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    return float(np.argmax(spectrum) * RATE / len(samples))


def test_the_servers_voices_are_listed_with_its_default_chosen(visit: Visit, site: Site) -> None:
    visit.ready()
    names = visit.page.locator("#voices label").all_inner_texts()
    assert names[:2] == ["Woman (English)", "Belinda"]
    assert names[-1] == "Own recording"
    expect(visit.page.get_by_label("Woman (English)", exact=True)).to_be_checked()


def test_a_preview_is_heard(visit: Visit) -> None:
    visit.ready()
    button = visit.page.get_by_role("button", name="Play a preview of Belinda")
    button.click()
    expect(button.locator("use")).to_have_attribute("href", "#stop")
    expect(button.locator("use")).to_have_attribute("href", "#play")
    visit.page.wait_for_timeout(1000)
    assert len(visit.heard()) > RATE


def test_a_preview_ends_when_another_begins(visit: Visit) -> None:
    visit.ready()
    first = visit.page.get_by_role("button", name="Play a preview of Belinda")
    first.click()
    visit.page.get_by_role("button", name="Play a preview of Narrator").click()
    expect(first.locator("use")).to_have_attribute("href", "#play")


def test_an_uploaded_recording_reaches_the_server(visit: Visit, site: Site, tmp_path: Path) -> None:
    visit.ready().use_recording(write_tone(tmp_path / "me.wav"), "One long note.")
    expect(visit.page.locator("#reference-note")).to_contain_text(
        "me.wav 0:02.0, peak -9 dB, good level"
    )
    visit.speak("Hello there.")
    visit.finished()
    samples = site.recording_sent()
    assert abs(len(samples) - 2 * RATE) < 10
    assert abs(pitch(samples) - 440) < 1
    assert "One long note." in str(site.last_speech())


def test_a_recording_of_the_microphone_reaches_the_server(visit: Visit, site: Site) -> None:
    visit.ready().page.get_by_label("Own recording", exact=True).check()
    visit.page.get_by_role("button", name="Record").click()
    stop = visit.page.get_by_role("button", name="Stop recording")
    expect(visit.page.locator("#level-text")).to_contain_text("0:02")
    level = visit.page.locator("#level")
    wait(lambda: bool(level.evaluate("meter => meter.value > -40")))
    stop.click()
    expect(visit.page.locator("#reference-note")).to_contain_text("peak")
    visit.page.get_by_label("What is said in it").fill("Beep, beep.")
    visit.speak("Hello there.")
    visit.finished()
    samples = site.recording_sent()
    assert 1.5 * RATE < len(samples) < 4 * RATE
    assert np.abs(samples).max() > 3000  # Chromium's fake microphone beeps


def test_a_recording_is_heard_again_and_removed(visit: Visit, tmp_path: Path) -> None:
    visit.ready().use_recording(write_tone(tmp_path / "me.wav"), "One long note.")
    visit.page.get_by_role("button", name="Listen to the recording").click()
    visit.page.wait_for_timeout(3500)
    assert abs(pitch(visit.heard()) - 440) < 2
    visit.page.get_by_role("button", name="Remove").click()
    visit.speak("Hello there.")
    expect(visit.page.locator(".problem")).to_have_text("Choose or record a voice first.")


def test_a_file_that_is_not_audio_is_refused(visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "note.wav"
    path.write_text("not audio")
    visit.ready().page.get_by_label("Own recording", exact=True).check()
    visit.page.locator("#reference-file").set_input_files(path)
    expect(visit.page.locator(".problem")).to_contain_text("note.wav is not audio")


def test_a_denied_microphone_is_explained(denying_browser: Browser, site: Site) -> None:
    visit = Visit(denying_browser, site.url).ready()
    visit.page.get_by_label("Own recording", exact=True).check()
    visit.page.get_by_role("button", name="Record").click()
    expect(visit.page.locator(".problem")).to_contain_text("does not allow the microphone")
