"""A browser's audio element plays what the real server sends, to its end."""

from __future__ import annotations

import http.server
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fork.test_speech import TEXT, Answer, speak
from tests.support import debian
from tests.support.fuzz import Server

pytestmark = pytest.mark.fork

FORMATS = ["wav", "mp3", "flac", "opus", "aac"]

# Each format once as it streams in, by the element, and once whole, by the decoder behind it.
PAGE = """<!doctype html><script>
const tell = (what) => fetch("/told", {method: "POST", body: JSON.stringify(what)});
const play = (url) => new Promise((done) => {
  const audio = new Audio(url);
  audio.onended = () => done({played: audio.currentTime});
  audio.onerror = () => done({error: audio.error.message || audio.error.code});
  audio.play().catch((error) => done({error: String(error)}));
});
const decode = async (url) => {
  const bytes = await (await fetch(url)).arrayBuffer();
  const context = new OfflineAudioContext(1, 24000, 24000);
  return {decoded: (await context.decodeAudioData(bytes)).duration};
};
(async () => {
  for (const form of FORMATS) {
    const url = "/speech/" + form;
    await tell({form, ...await play(url), ...await decode(url).catch((e) => ({error: String(e)}))});
  }
})();
</script>""".replace("FORMATS", json.dumps(FORMATS))

QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--autoplay-policy=no-user-gesture-required", "--mute-audio",
]  # fmt: skip


class Site(http.server.BaseHTTPRequestHandler):
    """A page that plays the server's speech: passes it on as it comes, and is told the outcome."""

    protocol_version = "HTTP/1.1"
    api: Any
    body: dict[str, Any]
    told: queue.Queue[dict[str, Any]]

    def do_GET(self) -> None:
        _, _, form = self.path.partition("/speech/")
        if form not in FORMATS:
            self._whole("text/html", PAGE.encode())
            return
        with Answer(self.api, self.body | {"response_format": form}) as answer:
            self.send_response(answer.response.status)
            self.send_header("Content-Type", answer.type)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while piece := answer.response.read1(1 << 16):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

    def do_POST(self) -> None:
        self.told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._whole("text/plain", b"")

    def _whole(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def chromium(server: Any) -> str:
    debian.require("chromium", lambda: _chromium() is not None)
    return str(_chromium())


@pytest.fixture
def outcomes(server: Any, chromium: str, tmp_path: Path) -> Iterator[dict[str, dict[str, Any]]]:
    body = {"model": Server(server.url).model(), "voice": "alloy", "input": TEXT, "seed": 1}
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    handler = type("Handler", (Site,), {"api": server, "body": body, "told": told})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        page = f"http://127.0.0.1:{site.server_address[1]}/"
        browser = subprocess.Popen(
            [chromium, *QUIET, f"--user-data-dir={tmp_path}", page], stderr=subprocess.DEVNULL
        )
        try:
            found = [told.get(timeout=120) for _ in FORMATS]
        finally:
            browser.kill()
            browser.wait()
            site.shutdown()
    expected = len(speak(server, body, response_format="pcm")) / 48_000
    yield {one["form"]: one | {"expected": expected} for one in found}


def test_a_browser_plays_every_format_to_its_end(outcomes: dict[str, dict[str, Any]]) -> None:
    for form in FORMATS:
        outcome = outcomes[form]
        print(outcome)
        assert "error" not in outcome, outcome
        assert close(outcome["decoded"], outcome["expected"], 0.01), outcome
        # The element's clock does not count the last, shorter frame of a compressed stream.
        slack = 0.01 if form == "wav" else 0.1
        assert close(outcome["played"], outcome["expected"], slack), outcome


def close(seconds: float, expected: float, less: float) -> bool:
    """Whether nothing is missing, and no more is added than codecs have at their ends."""
    return bool(expected - less <= seconds < expected + 0.15)
