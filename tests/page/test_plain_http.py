"""Without https:// browsers allow less; the page speaks all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.page.site import PLAIN_HOST, Site
from tests.page.visit import Visit


@pytest.fixture
def plain_visit(browser: Browser, site: Site) -> Iterator[Visit]:
    visit = Visit(browser, site.url.replace("127.0.0.1", PLAIN_HOST)).ready()
    assert not visit.page.evaluate("isSecureContext")
    yield visit
    assert all("Cross-Origin-Opener-Policy" in problem for problem in visit.problems)
    visit.close()


def test_speech_is_heard(plain_visit: Visit) -> None:
    plain_visit.speak("Hello there.")
    plain_visit.played()
    assert len(plain_visit.heard()) > 10_000


def test_the_missing_microphone_is_explained(plain_visit: Visit) -> None:
    plain_visit.page.get_by_label("Own recording", exact=True).check()
    expect(plain_visit.page.get_by_role("button", name="Record")).to_be_disabled()
    expect(plain_visit.page.locator("#reference-note")).to_contain_text("choose a file")


def test_the_curl_line_is_selected_where_it_cannot_be_copied(plain_visit: Visit) -> None:
    plain_visit.speak("Hello there.")
    plain_visit.page.get_by_role("button", name="Copy as curl").click()
    line = plain_visit.page.locator("#curl-line").text_content()
    assert plain_visit.page.evaluate("String(getSelection())") == line
