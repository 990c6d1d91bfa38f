"""A person's visit to the page, in a real Chromium."""

from __future__ import annotations

import base64
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

TAP = Path(__file__).with_name("tap.js")
WAIT = 30_000
"""Milliseconds: what the page does is waited for so long, on a machine that does much else."""

expect.set_options(timeout=WAIT)


class Visit:
    """The page in a fresh profile: no history, no key, no permission but those that are given.

    Attributes:
        page: Playwright's page.
        problems: what the console says of errors, but for answers with an error's status.
        hosts: the hosts of all requests.
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        self.context: BrowserContext = browser.new_context(**options)
        self.context.add_init_script(path=TAP)
        self.context.set_default_timeout(WAIT)
        self.problems: list[str] = []
        self.hosts: set[str] = set()
        self.page: Page = self.context.new_page()
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(url)

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.problems.append(message.text)

    def ready(self) -> Visit:
        """Wait for the list of voices."""
        expect(self.page.get_by_role("radio").nth(1)).to_be_visible()
        return self

    def speak(self, text: str, **settings: str) -> None:
        """Write a text, set fields by their label, and press the button."""
        self.page.get_by_label("Text", exact=True).fill(text)
        for label, value in settings.items():
            field = self.page.get_by_label(label, exact=True)
            if label == "Format":
                field.select_option(value)
            else:
                field.fill(value)
        self.page.get_by_role("button", name="Speak").click()

    def use_recording(self, path: Path, transcript: str) -> None:
        """Choose a file as the voice."""
        self.page.get_by_label("Own recording", exact=True).check()
        self.page.locator("#reference-file").set_input_files(path)
        self.page.get_by_label("What is said in it").fill(transcript)

    def enter_key(self, key: str) -> None:
        """Answer the dialog that asks for the API key."""
        dialog = self.page.get_by_role("dialog")
        expect(dialog.get_by_label("Key", exact=True)).to_be_focused()
        dialog.get_by_label("Key", exact=True).fill(key)
        dialog.get_by_role("button", name="Use this key").click()

    def sounding(self) -> None:
        """Wait until something is heard."""
        expect(self.page.locator("#at")).not_to_have_text("0:00.0")

    def finished(self) -> None:
        """Wait until all sound is there."""
        expect(self.page.locator("#status")).to_contain_text("Finished")

    def played(self) -> None:
        """Wait until all sound has been heard."""
        self.finished()
        expect(self.page.get_by_role("button", name="Play", exact=True)).to_be_visible()
        self.settled()

    def settled(self) -> None:
        """Wait until the tap has handed over its last piece: silence for two pieces."""
        counts = [-2, -1]
        while counts[-1] != counts[-2]:
            self.page.wait_for_timeout(1000)
            counts.append(self.page.evaluate("heardSound()"))

    def heard(self) -> NDArray[np.int16]:
        """Return what went to the loudspeaker, without its silence.

        On a slow machine there may be gaps, which a listener would hear, too.
        """
        content = base64.b64decode(self.page.evaluate("heardSamples()"))
        return without_silence(np.frombuffer(content, dtype="<i2"))

    def seconds(self, name: str) -> float:
        """Return a clock of the player: "at" or "length"."""
        minutes, _, seconds = self.page.locator(f"#{name}").inner_text().partition(":")
        return 60 * int(minutes) + float(seconds)

    def download(self, name: str = "Download") -> bytes:
        """Save a file of the page and return it."""
        with self.page.expect_download() as saved:
            self.page.get_by_role("link", name=name).click()
        return Path(saved.value.path()).read_bytes()

    def close(self) -> None:
        """End the visit."""
        self.context.close()


def without_silence(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the samples that are not zero."""
    return samples[np.flatnonzero(samples)]


def write_tone(path: Path) -> Path:
    """Write two seconds of 440 Hz, in stereo and at another rate, as a phone would record it."""
    tone = 12_000 * np.sin(2 * np.pi * 440 * np.arange(2 * 44_100) / 44_100)
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 44_100, 0, "NONE", ""))
        file.writeframes(np.repeat(tone.astype("<i2"), 2).tobytes())
    return path
