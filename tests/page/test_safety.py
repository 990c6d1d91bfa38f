"""What the page must not do, and what it costs."""

from __future__ import annotations

import gzip
import re

from playwright.sync_api import expect

from tests.page.site import PAGE, Site
from tests.page.visit import Visit

LARGEST = 100_000
"""Bytes of all files as they are sent."""


def test_no_other_host_is_asked(visit: Visit, site: Site) -> None:
    visit.ready().speak("Hello there.", Format="mp3")
    visit.played()
    visit.page.get_by_role("button", name="Play a preview of Belinda").click()
    visit.download()
    assert visit.hosts == {site.url.split("/")[2]}


def test_the_policy_is_strict_and_kept(visit: Visit) -> None:
    answer = visit.page.reload()
    assert answer
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    visit.ready().speak("Hello there.", Format="opus")
    visit.played()
    visit.page.get_by_label("Own recording", exact=True).check()
    visit.speak("x")
    visit.page.get_by_role("button", name="Play: Hello there.").click()
    assert visit.page.evaluate("window.violations") == []
    visit.page.evaluate(
        """const script = document.createElement("script");
        script.textContent = "window.injected = 1";
        document.body.append(script);"""
    )
    assert visit.page.evaluate("[window.violations.length, window.injected]") == [1, None]
    visit.problems.clear()


def test_a_text_is_shown_as_text(visit: Visit) -> None:
    text = "<img src=x onerror=alert(1)><b>bold</b>"
    visit.ready().speak(text)
    visit.finished()
    expect(visit.page.locator("#history .said")).to_have_text(text)
    assert visit.page.locator("img, b").count() == 0


def test_no_file_has_inline_code_or_another_host() -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[\w.]+\.\w+", text)) <= {"http://www.w3.org"}, path
        assert not re.search(r"\son\w+=|\sstyle=|javascript:", text), path
    markup = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style", markup)


def test_the_page_is_small() -> None:
    files = [path.read_bytes() for path in PAGE.iterdir()]
    assert sum(map(len, files)) < LARGEST
    assert sum(len(gzip.compress(content)) for content in files) < LARGEST / 2
