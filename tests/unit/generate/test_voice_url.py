"""A recording by URL: fetched once, whoever asks, and kept on disk."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from higgs_generate import references
from higgs_patches.patches import media

from tests.support.generate_service import GenerateRun
from tests.support.http_server import BusyHTTPServer
from tests.unit.generate.conftest import MakeRun

AUDIO = b"RIFF" + bytes(range(256)) * 40


class Recordings(BusyHTTPServer):
    """A server of recordings that takes a moment, and counts what is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.status = 200

    def url(self, name: str = "voice.wav") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Recordings

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        time.sleep(0.1)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(AUDIO)))
        self.end_headers()
        self.wfile.write(AUDIO)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recordings]:
    """Recordings on this machine, whose address counts as a public one."""
    monkeypatch.setenv("HIGGS_ALLOWED_MEDIA_HOSTS", "127.0.0.1")
    monkeypatch.setattr(media, "is_public", lambda _: True)
    with Recordings() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def fresh(make_run: MakeRun, folder: Path) -> GenerateRun:
    """The service with nothing kept."""
    return make_run(HIGGS_GENERATE_JOBS_DIR=str(folder))


def test_recording_reaches_the_server(fresh: GenerateRun, recordings: Recordings) -> None:
    answer = fresh.generate(voice_url=recordings.url(), reference_text="Hi.")
    assert answer.status == 200 and answer.headers["x-mode"] == "clone"
    assert fresh.last["ref_audio"] == base64.b64encode(AUDIO).decode()
    assert fresh.last["ref_text"] == "Hi." and "voice" not in fresh.last


def test_all_who_ask_at_once_wait_for_one_download(
    fresh: GenerateRun, recordings: Recordings
) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: fresh.generate(voice_url=recordings.url()), range(8)))
    assert [x.status for x in done] == [200] * 8 and recordings.asked == ["/voice.wav"]


def test_it_is_kept_for_a_later_process_and_for_a_day(
    fresh: GenerateRun, make_run: MakeRun, recordings: Recordings, folder: Path
) -> None:
    assert fresh.generate(voice_url=recordings.url()).status == 200
    fresh.close()
    later = make_run(HIGGS_GENERATE_JOBS_DIR=str(folder))
    assert later.generate(voice_url=recordings.url()).status == 200
    assert recordings.asked == ["/voice.wav"]
    [kept] = (folder / "references").iterdir()
    assert kept.read_bytes() == AUDIO
    old = time.time() - references.KEPT_SECONDS - 1
    os.utime(kept, (old, old))
    assert later.generate(voice_url=recordings.url()).status == 200
    assert len(recordings.asked) == 2


def test_what_is_no_longer_allowed_is_not_taken_from_the_disk(
    fresh: GenerateRun, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fresh.generate(voice_url=recordings.url()).status == 200
    monkeypatch.setenv("HIGGS_ALLOWED_MEDIA_HOSTS", "voices.example")
    refused = fresh.generate(voice_url=recordings.url())
    assert (refused.status, refused.json["param"]) == (400, "voice_url")


def test_failure_is_not_kept(fresh: GenerateRun, recordings: Recordings) -> None:
    recordings.status = 404
    refused = fresh.generate(voice_url=recordings.url())
    assert (refused.status, refused.json["param"]) == (400, "voice_url")
    recordings.status = 200
    assert fresh.generate(voice_url=recordings.url()).status == 200


def test_kept_recordings_take_a_bounded_part_of_the_disk(
    fresh: GenerateRun, recordings: Recordings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "KEPT_BYTES", 2 * len(AUDIO))
    for number in range(4):
        assert fresh.generate(voice_url=recordings.url(f"{number}.wav")).status == 200
    assert len(list((folder / "references").iterdir())) == 2


def test_disk_that_cannot_be_written_does_not_matter(
    fresh: GenerateRun, recordings: Recordings, folder: Path
) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "references").write_text("in the way")
    assert fresh.generate(voice_url=recordings.url()).status == 200
