"""Long texts: progress, and going on after a broken connection or a reload."""

from __future__ import annotations

import re

import numpy as np
from playwright.sync_api import expect

from tests.page.site import Site, wait
from tests.page.test_sound import wav_samples
from tests.page.visit import Visit, without_silence

SENTENCE = "The keeper of the lighthouse wrote down what the sea had done that day, number {}. "
TEXT = "".join(SENTENCE.format(number) for number in range(8))


def begin(visit: Visit, site: Site) -> None:
    """Have a text spoken until one piece of it is finished."""
    site.behave(per_character=0.02, speed=1.0)
    visit.ready().speak(TEXT)
    expect(visit.page.locator("#progress-text")).to_contain_text(re.compile(r"Piece [2-9] of \d"))


def test_progress_is_shown(visit: Visit, site: Site) -> None:
    begin(visit, site)
    progress = visit.page.get_by_role("progressbar", name="Pieces finished")
    expect(progress).to_be_visible()
    visit.finished()
    expect(progress).to_be_hidden()


def test_a_broken_connection_is_made_again_without_a_seam(visit: Visit, site: Site) -> None:
    begin(visit, site)
    site.break_connections()
    expect(visit.page.locator("#progress-text")).to_contain_text("connecting again")
    visit.played()
    broken = wav_samples(visit.download())
    assert np.array_equal(broken, site.job_sound())
    assert abs(len(visit.heard()) - len(without_silence(broken))) < 2400  # 0.1 s, at its new start


def test_an_unfinished_text_is_continued_after_a_reload(visit: Visit, site: Site) -> None:
    begin(visit, site)
    visit.page.reload()
    row = visit.page.locator("#history li")
    expect(row).to_contain_text("not finished")
    row.get_by_role("button", name="Continue").click()
    visit.finished()
    expect(row).not_to_contain_text("not finished")
    assert np.array_equal(wav_samples(visit.download()), site.job_sound())


def test_a_deleted_text_is_deleted_on_the_server(visit: Visit, site: Site) -> None:
    begin(visit, site)
    visit.page.get_by_role("button", name="Cancel").click()
    visit.page.get_by_role("button", name="Delete: The keeper").click()
    expect(visit.page.locator("#history li")).to_have_count(0)
    wait(lambda: not site.jobs())


def test_a_text_that_fails_half_way_says_why_and_is_continued(visit: Visit, site: Site) -> None:
    begin(visit, site)
    site.behave(status=500, error="the engine is dead")
    expect(visit.page.get_by_role("alert")).to_contain_text("he engine is dead")
    assert visit.seconds("length") > 1  # what has arrived can be played
    site.behave(per_character=0.02, speed=1.0)
    visit.page.get_by_role("button", name="Continue").click()
    visit.finished()
    assert np.array_equal(wav_samples(visit.download()), site.job_sound())
