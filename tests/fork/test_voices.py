"""Voices of the real server: one's own, OpenAI's names, unknown ones, changes while it runs."""

from __future__ import annotations

import io
import json
import math
import struct
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fuzz import Server

pytestmark = [pytest.mark.fork, pytest.mark.timeout(1800)]

SHIPPED = [
    "belinda", "broom_salesman", "chadwick", "en_man", "en_woman", "mabel", "vex", "zh_man_sichuan",
]  # fmt: skip
OPENAI = ["alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer"]
FORMATS = ["wav", "mp3", "flac", "ogg"]
BAD = ["no-file", "no-audio", "no-transcript", "silent", "too-long", "outside"]

IDLE_CORES = 0.05
"""Share of a core below which a server counts as idle: this one uses 0.014, one that reloads its
voices without a pause a whole one."""


def tone(seconds: float, rate: int = 44_100) -> list[float]:
    return [0.3 * math.sin(i / 20) * math.sin(i / 3000) for i in range(int(seconds * rate))]


def config() -> dict[str, Any]:
    voices: dict[str, Any] = {
        f"own-{kind}": {"audio_file": f"voice.{kind}", "transcript": "Hällo, 太乙真人."}
        for kind in FORMATS
    }
    return voices | {
        "described": {"system_prompt": "<|scene_desc_start|>A calm voice.<|scene_desc_end|>"},
        "no-file": {"audio_file": "none.wav", "transcript": "Hello."},
        "no-audio": {"audio_file": "text.wav", "transcript": "Hello."},
        "no-transcript": {"audio_file": "voice.wav"},
        "silent": {"audio_file": "silent.wav", "transcript": "Hello."},
        "too-long": {"audio_file": "long.wav", "transcript": "Hello."},
        "outside": {"audio_file": "../../../etc/passwd", "transcript": "Hello."},
    }


def write(folder: Path, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (folder / "config.json").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's own voices, good and bad."""
    import soundfile

    folder = tmp_path_factory.mktemp("voices")
    folder.chmod(0o755)
    for kind in FORMATS:
        soundfile.write(folder / f"voice.{kind}", tone(3), 44_100)
    soundfile.write(folder / "silent.wav", [0.0] * 48_000, 24_000)
    soundfile.write(folder / "long.wav", tone(31, 8_000), 8_000)
    (folder / "text.wav").write_text("no sound")
    write(folder, config())
    return folder


@pytest.fixture(scope="module")
def running(start_server: Any, folder: Path) -> Iterator[Any]:
    """The server with these voices; it looks for changes every second."""
    flags = ["--voice-presets-dir", "/voices", "--voice-presets-refresh-interval", "1"]
    with start_server(flags, mounts={str(folder): "/voices"}) as started:
        yield started


@pytest.fixture
def server(running: Any) -> Server:
    return Server(running.url)


def speak(server: Server, voice: str) -> tuple[int, bytes]:
    fields = {"voice": voice, "input": "Hello there.", "response_format": "wav", "max_tokens": 40}
    return server.post("/v1/audio/speech", {"model": server.model(), **fields})


def get(server: Server, path: str) -> Any:
    status, body = server.ask("GET", path)
    assert status == 200
    return json.loads(body)


def names(server: Server) -> list[str]:
    found: list[str] = get(server, "/v1/audio/voices?format=names")
    return found


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def loudest(wav: bytes) -> int:
    with wave.open(io.BytesIO(wav)) as file:
        data = file.readframes(file.getnframes())  # a stream's header promises more than there is
    return int(max(struct.unpack(f"<{len(data) // 2}h", data)))


@pytest.mark.parametrize("voice", [*(f"own-{kind}" for kind in FORMATS), "described", "alloy"])
def test_own_voices_and_openais_names_speak(server: Server, voice: str) -> None:
    status, answer = speak(server, voice)
    assert status == 200, answer
    assert loudest(answer) > 0


@pytest.mark.needs(voices=True)
@pytest.mark.parametrize("voice", [*BAD, "nobody", "Belinda", "../belinda"])
def test_an_unknown_or_bad_voice_is_told_what_there_is(server: Server, voice: str) -> None:
    status, answer = speak(server, voice)
    assert status == 400, answer
    for known in (voice, "own-mp3", "belinda", "alloy"):
        assert known in answer.decode()


@pytest.mark.needs(voices=True)
def test_bad_voices_are_named_in_the_log_once_with_their_reason(running: Any) -> None:
    lines = running.log().splitlines()
    for name, reason in zip(
        BAD,
        ["No such file", "cannot be decoded", "no transcript", "is silent", "30 s", "is not in"],
        strict=True,
    ):
        [line] = [line for line in lines if f"'{name}' cannot be used" in line]
        assert reason in line


@pytest.mark.needs(voices=True)
def test_the_list_is_read_by_open_webui_and_by_clients_of_the_plain_list(server: Server) -> None:
    expected = {*SHIPPED, "described", *(f"own-{kind}" for kind in FORMATS)}
    answer = get(server, "/v1/audio/voices")
    # Open WebUI: {voice["id"]: voice["name"] for voice in data.get("voices", [])}
    assert {v["id"]: v["name"] for v in answer.get("voices", [])} == {n: n for n in expected}
    aliases = [alias for voice in answer["voices"] for alias in voice["aliases"]]
    assert set(OPENAI) < set(aliases)
    assert len(aliases) == len(set(aliases))
    assert set(names(server)) == expected


@pytest.mark.needs(voices=True)
def test_changes_are_picked_up_and_a_broken_file_keeps_what_was_good(
    running: Any, server: Server, folder: Path
) -> None:
    try:
        write(folder, config() | {"new": config()["own-wav"]})
        (folder / "aliases.json").write_text('{"alloy": "new"}')
        until(lambda: "new" in names(server))
        assert speak(server, "new")[0] == 200
        voices = get(server, "/v1/audio/voices")["voices"]
        assert next(v["aliases"] for v in voices if v["id"] == "new") == ["alloy"]
        write(folder, "{ broken")
        until(lambda: "stays in use" in running.log())
        time.sleep(3)  # two more looks, which say nothing
        said = running.log().count("config.json cannot be used")
        assert said == 1
        assert speak(server, "new")[0] == 200
    finally:
        (folder / "aliases.json").unlink(missing_ok=True)
        write(folder, config())
    until(lambda: "new" not in names(server))


@pytest.mark.needs(voices=True)
def test_an_idle_server_is_idle(running: Any) -> None:
    time.sleep(5)  # for what the last request has left behind
    before, began = running.container.cpu_seconds(), time.monotonic()
    time.sleep(20)
    used = (running.container.cpu_seconds() - before) / (time.monotonic() - began)
    print(f"an idle server uses {used:.3f} cores")
    assert used < IDLE_CORES
