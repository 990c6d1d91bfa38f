"""The page can be used by keyboard, by screen reader, on a phone, and in the dark."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.page.site import PAGE, Site
from tests.page.visit import Visit

PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}


def accessible(visit: Visit) -> None:
    found = Axe().run(visit.page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_no_state_violates_the_rules_of_axe(
    browser: Browser, site: Site, viewport: dict[str, int], scheme: str
) -> None:
    visit = Visit(browser, site.url, viewport=viewport, color_scheme=scheme).ready()
    accessible(visit)
    visit.page.get_by_label("Own recording", exact=True).check()
    visit.page.get_by_text("More", exact=True).click()
    visit.speak("Hello there, and good day.")  # without a recording: a marked field
    accessible(visit)
    visit.page.get_by_label("Belinda", exact=True).check()
    visit.page.get_by_role("button", name="Speak").click()
    visit.sounding()
    accessible(visit)
    visit.finished()
    visit.page.get_by_text("The request as curl").click()
    accessible(visit)
    site.behave(status=503)
    visit.page.get_by_role("button", name="Speak").click()
    expect(visit.page.get_by_role("alert")).to_be_visible()
    accessible(visit)
    visit.close()


def test_the_dialog_for_the_key_is_accessible(locked_visit: Visit) -> None:
    expect(locked_visit.page.get_by_role("dialog")).to_be_visible()
    accessible(locked_visit)


def test_every_field_has_a_label_that_stays(visit: Visit) -> None:
    unnamed = visit.ready().page.evaluate(
        """[...document.querySelectorAll("input, select, textarea")]
        .filter((field) => !field.labels.length && !field.ariaLabel).map((field) => field.id)"""
    )
    assert unnamed == []


def test_everything_works_by_keyboard(visit: Visit) -> None:
    press = visit.page.keyboard.press
    visit.ready()
    press("Tab")
    expect(visit.page.get_by_role("link", name="Skip to the text")).to_be_focused()
    press("Enter")
    visit.page.keyboard.type("Hello there.")
    press("Tab")
    expect(visit.page.get_by_label("Woman (English)", exact=True)).to_be_focused()
    press("ArrowDown")
    expect(visit.page.get_by_label("Belinda", exact=True)).to_be_checked()
    focus_by_tab(visit, "Temperature")
    press("ArrowRight")
    focus_by_tab(visit, "Speak")
    press("Enter")
    expect(visit.page.get_by_role("button", name="Cancel")).to_be_focused()
    visit.finished()
    expect(visit.page.get_by_role("button", name="Speak")).to_be_focused()
    visit.played()
    focus_by_tab(visit, "Position")
    press("Home")
    expect(visit.page.locator("#at")).to_have_text("0:00.0")
    focus_by_tab(visit, "Download")
    focus_by_tab(visit, "Delete: Hello there.")
    press("Enter")
    expect(visit.page.locator("#history li")).to_have_count(0)
    expect(visit.page.get_by_label("Text", exact=True)).to_be_focused()
    press("Control+Enter")
    expect(visit.page.get_by_role("button", name="Cancel")).to_be_visible()


def focus_by_tab(visit: Visit, name: str) -> None:
    """Press Tab until an element has the focus, each of them visibly."""
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        focused = visit.page.locator(":focus")
        label = focused.evaluate("x => x.ariaLabel || x.labels?.[0]?.textContent || x.textContent")
        if label.strip() == name:
            return
    raise AssertionError(f"Tab does not lead to {name}")


def test_a_screen_reader_is_told_what_happens(visit: Visit) -> None:
    visit.context.add_init_script(
        """window.told = [];
        addEventListener("DOMContentLoaded", () => {
          const region = document.querySelector("#status");
          new MutationObserver(() => window.told.push(region.textContent))
            .observe(region, { childList: true, characterData: true, subtree: true });
        });"""
    )
    visit.page.reload()
    visit.ready().speak("Hello there.")
    visit.finished()
    told = visit.page.evaluate("told")
    assert told[:2] == ["Making speech", "Playing"]
    assert told[-1].startswith("Finished: ")


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, site: Site, width: int) -> None:
    visit = Visit(browser, site.url, viewport={"width": width, "height": 740}).ready()
    visit.page.get_by_label("Own recording", exact=True).check()
    visit.page.get_by_text("More", exact=True).click()
    visit.page.get_by_label("Belinda", exact=True).check()
    visit.speak("Longwordswithoutanyspace" * 12)
    visit.finished()
    visit.page.get_by_text("The request as curl").click()
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    visit.close()


def test_a_phone_can_be_used_with_a_thumb(browser: Browser, site: Site) -> None:
    visit = Visit(browser, site.url, viewport=PHONE, is_mobile=True, has_touch=True).ready()
    visit.page.get_by_label("Text", exact=True).fill("Hello there.")
    speak = visit.page.get_by_role("button", name="Speak")
    expect(speak).to_be_in_viewport()  # without scrolling to the end of the form
    speak.tap()
    expect(visit.page.get_by_role("button", name="Pause")).to_be_in_viewport()
    visit.finished()
    for button in visit.page.locator("button:visible, .button:visible, summary:visible").all():
        box = button.bounding_box()
        assert box and min(box["width"], box["height"]) >= 32, button.inner_text()
    visit.close()


def test_the_colours_follow_the_system(browser: Browser, site: Site) -> None:
    visit = Visit(browser, site.url, color_scheme="light").ready()
    brightness = "Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    assert visit.page.evaluate(brightness) > 200
    visit.page.emulate_media(color_scheme="dark")
    assert visit.page.evaluate(brightness) < 50
    visit.close()


def test_nothing_moves_but_the_position_in_the_sound() -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        found = re.search(r"transition|animation:|animate\(|smooth|<marquee|<animate", text)
        assert not found, f"{path.name}: {found}"
