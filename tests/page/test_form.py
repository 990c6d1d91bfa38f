"""The form: what a person sets reaches the server, and what is wrong is said where it is."""

from __future__ import annotations

import re
import time

import pytest
from higgs_generate.generate_request import FORMATS
from playwright.sync_api import Route, expect

from tests.page.site import Site
from tests.page.visit import Visit


def test_settings_reach_the_server(visit: Visit, site: Site) -> None:
    visit.ready()
    visit.page.get_by_label("Belinda", exact=True).check()
    visit.page.get_by_text("More").click()
    visit.page.get_by_role("slider", name="Temperature").fill("0.9")
    visit.speak(
        "Hello there.",
        Format="flac",
        Seed="7",
        Speed="1.5",
        **{"Top p": "0.8", "Top k": "20", "Most tokens": "300"},
    )
    visit.finished()
    body = site.last_speech()
    expected = {
        "input": "Hello there.", "voice": "belinda", "temperature": 0.9, "seed": 7, "speed": 1.5,
        "top_p": 0.8, "top_k": 20, "max_tokens": 300, "response_format": "flac",
    }  # fmt: skip
    assert {name: body.get(name) for name in expected} == expected


def test_the_form_offers_the_formats_of_the_service(visit: Visit) -> None:
    names = [x.get_attribute("value") for x in visit.ready().page.locator("option").all()]
    assert names == list(FORMATS)
    expect(visit.page.get_by_label("Format")).to_have_value("wav")


def test_formats_that_cannot_be_made_are_not_offered(visit: Visit) -> None:
    def answer(route: Route) -> None:
        health = route.fetch().json()
        health["limits"]["formats"] = ["wav", "pcm", "new"]
        route.fulfill(json=health)

    visit.page.route("**/health", answer)
    visit.page.reload()
    visit.ready()
    shown = [x.inner_text() for x in visit.page.locator("option").all()]
    assert shown == ["WAV", "Raw PCM", "NEW"]


def test_a_scene_reaches_the_server(visit: Visit, site: Site) -> None:
    visit.ready().speak("Hello there.", Scene="whispered; breathy")
    visit.finished()
    assert "whispered; breathy" in str(site.last_speech())


def test_an_empty_text_is_refused_in_the_form(visit: Visit, site: Site) -> None:
    visit.ready().speak("  \n")
    field = visit.page.get_by_label("Text", exact=True)
    expect(field).to_be_focused()
    expect(field).to_have_accessible_description(re.compile("Write what should be said"))
    assert not site.speeches()


@pytest.mark.parametrize(("label", "value"), [("Seed", "x"), ("Top k", "1000"), ("Speed", "9")])
def test_a_refused_field_is_marked_and_focused(visit: Visit, label: str, value: str) -> None:
    visit.ready()
    visit.page.get_by_text("More").click()
    visit.speak("Hello there.", **{label: value})
    field = visit.page.get_by_label(label, exact=True)
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    assert visit.page.locator(".problem").inner_text()
    visit.page.get_by_label(label, exact=True).fill("")
    visit.page.get_by_role("button", name="Speak").click()
    visit.finished()
    assert visit.page.locator(".problem").count() == 0


def test_cancel_ends_the_request_at_the_server(visit: Visit, site: Site) -> None:
    visit.ready().speak("A sentence that takes a while to speak, and then some more of it. " * 3)
    visit.sounding()
    began = time.monotonic()
    visit.page.get_by_role("button", name="Cancel").click()
    site.wait_for_hang_up()
    assert time.monotonic() - began < 5
    expect(visit.page.locator("#status")).to_have_text("Cancelled")
    expect(visit.page.get_by_role("button", name="Speak")).to_be_enabled()


def test_escape_cancels(visit: Visit, site: Site) -> None:
    visit.ready().speak("A sentence that takes a while to speak, and then some more of it. " * 3)
    visit.sounding()
    visit.page.keyboard.press("Escape")
    site.wait_for_hang_up()


def test_a_failure_is_shown_with_a_hint_and_can_be_repeated(visit: Visit, site: Site) -> None:
    visit.ready()
    site.behave(status=503, error="the server is starting", retry_after="5")
    visit.speak("Hello there.")
    error = visit.page.get_by_role("alert")
    expect(error).to_contain_text("Try again in a moment")
    site.behave()
    error.get_by_role("button", name="Try again").click()
    visit.finished()
    expect(error).to_be_hidden()


def test_a_server_that_is_down_is_shown_and_waited_for(visit: Visit, site: Site) -> None:
    visit.ready()
    visit.context.set_offline(True)
    visit.speak("Hello there.")
    expect(visit.page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    visit.context.set_offline(False)
    visit.page.get_by_role("button", name="Try again").click()
    visit.finished()
