"""A browser, the site, and visits to it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.page.site import KEY, PLAIN_HOST, Site
from tests.page.visit import Visit
from tests.support.browser import QUIET, chromium

FLAGS = ["--use-fake-device-for-media-stream", f"--host-resolver-rules=MAP {PLAIN_HOST} 127.0.0.1"]
ALLOW, DENY = "--use-fake-ui-for-media-stream", "--use-fake-ui-for-media-stream=deny"
"""What a person answers who is asked for the microphone; without windows nobody is asked."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, for all tests of a worker: a visit has its own profile."""
    path = chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=[*QUIET, *FLAGS, ALLOW])
        yield started
        started.close()


@pytest.fixture
def denying_browser(browser: Browser) -> Iterator[Browser]:
    """Chromium whose user denies the microphone."""
    flags = [*QUIET, *FLAGS, DENY]
    started = browser.browser_type.launch(executable_path=chromium(), args=flags)
    yield started
    started.close()


@pytest.fixture(scope="session")
def encoders(ffmpeg_folder: str) -> Iterator[None]:
    """The image's ffmpeg, for the service and for the stand-in behind it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", ffmpeg_folder, prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def open_site(encoders: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("jobs")) as made:
        yield made


@pytest.fixture(scope="session")
def locked_site(encoders: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("locked-jobs"), KEY) as made:
        yield made


@pytest.fixture
def site(open_site: Site) -> Site:
    """A site without an API key, as new."""
    open_site.reset()
    return open_site


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Visit]:
    """A visit to it; the page must not have failed at its end."""
    made = Visit(browser, site.url, permissions=["microphone", "clipboard-read", "clipboard-write"])
    yield made
    assert made.problems == []
    made.close()


@pytest.fixture
def locked_visit(browser: Browser, locked_site: Site) -> Iterator[Visit]:
    """A visit to a site with an API key."""
    locked_site.reset()
    made = Visit(browser, locked_site.url)
    yield made
    made.close()
