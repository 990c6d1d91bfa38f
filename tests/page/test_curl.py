"""The curl line of the page does what the page did."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.page.site import KEY, Site
from tests.page.visit import Visit, write_tone
from tests.support import debian

TEXTS = ['It\'s "quoted" & $HOME `id` \\n 100 %s', "First line.\nSecond line.", "你好。 مرحبا"]


@pytest.mark.parametrize("text", TEXTS)
def test_the_curl_line_repeats_the_request(
    visit: Visit, site: Site, tmp_path: Path, text: str
) -> None:
    visit.ready().speak(text, Seed="3")
    visit.finished()
    asked = site.last_speech()
    run(visit.page.locator("#curl-line").text_content(), tmp_path)
    assert len(site.speeches()) == 2
    assert site.last_speech() == asked
    assert (tmp_path / "speech.wav").read_bytes() == visit.download()


def test_the_curl_line_sends_the_recording(visit: Visit, site: Site, tmp_path: Path) -> None:
    visit.ready().use_recording(write_tone(tmp_path / "me.wav"), "It's a tone.")
    visit.speak("In my voice.")
    visit.finished()
    asked = site.last_speech()
    (tmp_path / "reference.wav").write_bytes(visit.download("Save reference.wav"))
    run(visit.page.locator("#curl-line").text_content(), tmp_path)
    assert len(site.speeches()) == 2
    assert site.last_speech() == asked


def test_the_curl_line_of_a_very_long_text_fits_a_shell(visit: Visit, tmp_path: Path) -> None:
    text = "The sea was calm. " * 9000  # more than one argument of a command may have
    visit.ready().speak(text)
    visit.page.get_by_role("button", name="Cancel").click()
    line = str(visit.page.locator("#curl-line").text_content())
    run(line.rpartition("|")[0] + "> body.json", tmp_path)
    assert json.loads((tmp_path / "body.json").read_text())["text"] == text


def test_the_curl_line_takes_the_key_from_the_environment(
    locked_visit: Visit, locked_site: Site, tmp_path: Path
) -> None:
    locked_visit.enter_key(KEY)
    locked_visit.ready().speak("Hello there.")
    locked_visit.finished()
    line = str(locked_visit.page.locator("#curl-line").text_content())
    assert KEY not in line
    run(line, tmp_path, HIGGS_API_KEY=KEY)
    assert len(locked_site.speeches()) == 2


def test_the_curl_line_is_copied(visit: Visit) -> None:
    visit.ready().speak("Hello there.")
    visit.page.get_by_role("button", name="Copy as curl").click()
    expect(visit.page.locator("#copy")).to_have_text("Copied")
    copied = visit.page.evaluate("navigator.clipboard.readText()")
    assert copied == visit.page.locator("#curl-line").text_content()


def run(line: str | None, folder: Path, **environment: str) -> None:
    debian.require_program("curl")
    command = ["bash", "-euo", "pipefail"]
    subprocess.run(
        command, input=line, text=True, cwd=folder, env=os.environ | environment, check=True,
        timeout=60,
    )  # fmt: skip
