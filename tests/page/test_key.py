"""The API key: asked for, kept in the tab, and nowhere else."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.page.site import KEY
from tests.page.visit import Visit


def test_the_key_is_asked_for_and_used(locked_visit: Visit) -> None:
    locked_visit.enter_key(KEY)
    locked_visit.ready().speak("Hello there.")
    locked_visit.finished()


def test_a_wrong_key_is_asked_for_again(locked_visit: Visit) -> None:
    locked_visit.enter_key("wrong-key")
    expect(locked_visit.page.get_by_role("dialog")).to_contain_text("does not accept this key")
    locked_visit.enter_key(KEY)
    locked_visit.ready()


def test_without_a_key_the_page_says_what_is_missing(locked_visit: Visit) -> None:
    locked_visit.page.get_by_role("button", name="Not now").click()
    expect(locked_visit.page.get_by_role("alert")).to_contain_text("API key")


def test_a_key_that_is_given_later_is_used_for_all(locked_visit: Visit) -> None:
    locked_visit.page.get_by_role("button", name="Not now").click()
    locked_visit.speak("Hello there.")
    locked_visit.enter_key(KEY)
    locked_visit.finished()
    locked_visit.ready()  # the voices are listed, too


def test_the_key_outlives_a_reload_but_not_the_tab(locked_visit: Visit) -> None:
    locked_visit.enter_key(KEY)
    locked_visit.ready().page.reload()
    locked_visit.ready()
    other = locked_visit.context.new_page()
    other.goto(locked_visit.page.url)
    expect(other.get_by_role("dialog")).to_be_visible()


def test_the_key_is_in_the_session_storage_only(locked_visit: Visit) -> None:
    locked_visit.enter_key(KEY)
    locked_visit.ready().speak("Hello there.")
    locked_visit.finished()
    page = locked_visit.page
    expect(page.locator("#history li")).to_have_count(1)
    assert KEY in page.evaluate("JSON.stringify(sessionStorage)")
    assert KEY not in page.evaluate(
        "JSON.stringify(localStorage) + document.cookie + document.documentElement.outerHTML"
    )
    kept = page.evaluate(
        """async () => {
          const database = await new Promise((done) => {
            indexedDB.open("higgs-page").onsuccess = (event) => done(event.target.result);
          });
          const store = database.transaction("takes").objectStore("takes");
          return new Promise((done) => {
            store.getAll().onsuccess = (event) => done(JSON.stringify(event.target.result));
          });
        }"""
    )
    assert "Hello there." in kept
    assert KEY not in kept


def test_the_key_can_be_forgotten(locked_visit: Visit) -> None:
    locked_visit.enter_key(KEY)
    locked_visit.ready().page.get_by_role("button", name="Forget the key").click()
    assert KEY not in locked_visit.page.evaluate("JSON.stringify(sessionStorage)")
    locked_visit.speak("Hello there.")
    expect(locked_visit.page.get_by_role("dialog")).to_be_visible()


def test_an_open_server_is_not_asked_for_a_key(visit: Visit) -> None:
    visit.ready()
    expect(visit.page.get_by_role("button", name="API key")).to_be_hidden()
