"""What was made before stays in this browser until it is deleted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.page.site import Site
from tests.page.visit import Visit, write_tone


@pytest.mark.flaky(reruns=3, only_rerun="AssertionError")  # a busy machine plays with gaps
def test_a_take_is_kept_and_heard_after_a_reload(visit: Visit, site: Site) -> None:
    visit.ready().speak("Hello there, keep this.", Format="mp3")
    visit.played()
    made, file = visit.heard(), visit.download()
    visit.page.reload()
    site.reset()
    visit.page.get_by_role("button", name="Play: Hello there, keep this.").click()
    expect(visit.page.get_by_role("button", name="Pause")).to_be_visible()
    expect(visit.page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    visit.settled()
    assert np.array_equal(visit.heard(), made)
    assert visit.download() == file
    assert not site.speeches()  # nothing was asked of the server


def test_settings_of_a_take_are_used_again(visit: Visit, site: Site) -> None:
    visit.ready().page.get_by_label("Belinda", exact=True).check()
    visit.speak("Once more.", Scene="a quiet room", Seed="5", Format="flac")
    visit.finished()
    visit.page.reload()
    visit.ready().page.get_by_role("button", name="Use again: Once more.").click()
    expect(visit.page.get_by_label("Text", exact=True)).to_be_focused()
    first = site.last_speech()
    visit.page.get_by_role("button", name="Speak").click()
    visit.finished()
    assert site.last_speech() == first


def test_a_take_is_deleted(visit: Visit) -> None:
    visit.ready().speak("Delete me.")
    visit.finished()
    visit.page.get_by_role("button", name="Delete: Delete me.").click()
    expect(visit.page.locator("#history li")).to_have_count(0)
    visit.page.reload()
    expect(visit.page.locator("#history-note")).to_be_visible()


def test_all_takes_are_deleted_after_a_question(visit: Visit) -> None:
    visit.ready()
    for text in ("One.", "Two."):
        visit.speak(text)
        visit.finished()
    expect(visit.page.locator("#history li")).to_have_count(2)
    visit.page.once("dialog", lambda dialog: dialog.dismiss())
    visit.page.get_by_role("button", name="Delete all").click()
    expect(visit.page.locator("#history li")).to_have_count(2)
    visit.page.once("dialog", lambda dialog: dialog.accept())
    visit.page.get_by_role("button", name="Delete all").click()
    expect(visit.page.locator("#history li")).to_have_count(0)


def test_a_browser_without_storage_still_speaks(visit: Visit) -> None:
    visit.context.add_init_script("IDBFactory.prototype.open = () => { throw new Error('off'); };")
    visit.page.reload()
    visit.ready().speak("Hello there.")
    visit.finished()
    expect(visit.page.locator("#history-note")).to_contain_text("keeps no history")


def test_a_recording_is_used_again(visit: Visit, tmp_path: Path, site: Site) -> None:
    visit.ready().use_recording(write_tone(tmp_path / "me.wav"), "A tone.")
    visit.speak("In my voice.")
    visit.finished()
    first = site.last_speech()
    visit.page.reload()
    visit.ready().page.get_by_role("button", name="Use again: In my voice.").click()
    expect(visit.page.locator("#recorded")).to_be_visible()
    visit.page.get_by_role("button", name="Speak").click()
    visit.finished()
    assert site.last_speech() == first
