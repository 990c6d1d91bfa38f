"""Voices: what is refused and why, what is kept, what is read again, what a request is told."""

from __future__ import annotations

import ast
import asyncio
import base64
import inspect
import json
import os
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Awaitable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from higgs_patches.lib.voices import library as voice_library
from higgs_patches.lib.voices import recording as voice_recording
from higgs_patches.lib.voices.library import KNOWN_ALIASES, VoiceLibrary
from higgs_patches.lib.voices.recording import VoiceError
from higgs_patches.lib.voices.voice import UnknownVoiceError, Voice, Voices, resolve
from higgs_patches.patches import voices

PATCHES = str(Path(voices.__file__).parents[2])
SHIPPED = ["belinda", "broom_salesman", "chadwick", "en_man", "en_woman", "mabel", "vex"]


async def awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def plain_read(path: Path) -> bytes:
    """Stands for the decoding, which needs libsndfile: takes what Python's wave can open."""
    try:
        with wave.open(str(path)) as file:
            assert file.getnframes()
    except (OSError, wave.Error, EOFError) as error:
        raise VoiceError(f"{path}: {error}") from None
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_recording, "read", plain_read)


def recording(path: Path, frames: int = 24_000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(b"\x00\x10" * frames)


class Folder:
    """A directory of voices."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def write(self, config: Any = None, aliases: Any = None) -> None:
        for name, content in (("config", config), ("aliases", aliases)):
            if content is not None:
                text = content if isinstance(content, str) else json.dumps(content)
                (self.path / f"{name}.json").write_text(text, encoding="utf-8")

    def voice(self, name: str, **more: Any) -> dict[str, Any]:
        recording(self.path / f"{name}.wav")
        return {"audio_file": f"{name}.wav", "transcript": f"I am {name}."} | more


@pytest.fixture
def own(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "own")


@pytest.fixture
def shipped(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "shipped")
    folder.write({name: folder.voice(name) for name in SHIPPED})
    return folder


def library(*folders: Folder) -> VoiceLibrary:
    made = VoiceLibrary(*(folder.path for folder in folders))
    made.refresh()
    return made


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    caplog.clear()
    return found


def test_own_voices_are_added_to_the_shipped_ones_and_win(own: Folder, shipped: Folder) -> None:
    own.write({"me": own.voice("me"), "mabel": own.voice("mabel", transcript="Mine.")})
    found = library(own, shipped).voices
    assert set(found) == {*SHIPPED, "me"}
    assert next(iter(found)) == "me"
    assert found["mabel"].transcript == "Mine."
    assert found["me"].audio == (own.path / "me.wav").read_bytes()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"transcript": "t"}, "no audio_file"),
        ({"audio_file": "me.wav"}, "no transcript"),
        ({"audio_file": "me.wav", "transcript": " \n"}, "no transcript"),
        ({"audio_file": "me.wav", "transcript": None}, "no transcript"),
        ({"audio_file": "me.wav", "transcript": 7}, "transcript is 7, not a text"),
        ({"audio_file": 7, "transcript": "t"}, "audio_file is 7, not a text"),
        ({"audio_file": "none.wav", "transcript": "t"}, "none.wav"),
        ({"audio_file": "text.wav", "transcript": "t"}, "text.wav"),
        ({"audio_file": "../shipped/vex.wav", "transcript": "t"}, "put it there"),
        ({"audio_file": "../../../etc/passwd", "transcript": "t"}, "put it there"),
        ({"audio_file": "/etc/passwd", "transcript": "t"}, "put it there"),
        ({"audio_file": "a\0b", "transcript": "t"}, "put it there"),
        ({"audio_file": "a" * 5000, "transcript": "t"}, "aaa"),
        ({"audio_file": "me.wav", "transcript": "x <|AUDIO_OUT|> y"}, "<|AUDIO_OUT|>"),
        ({"system_prompt": "<|eot_id|>"}, "<|eot_id|>"),
        ({}, "no transcript"),
        ([], "not a JSON object"),
        ("me.wav", "not a JSON object"),
        (None, "not a JSON object"),
    ],
)
def test_a_bad_voice_is_left_out_and_named_once_with_its_reason(
    own: Folder, shipped: Folder, caplog: pytest.LogCaptureFixture, entry: Any, reason: str
) -> None:
    (own.path / "text.wav").write_text("no sound")
    own.write({"good": own.voice("good"), "bad": entry, "me": own.voice("me")})
    found = library(own, shipped)
    assert set(found.voices) == {*SHIPPED, "good", "me"}
    [said] = warnings(caplog)
    assert "'bad'" in said
    assert "left out" in said
    assert reason in said
    assert not found.refresh()
    assert not warnings(caplog)


def test_a_file_may_lie_below_the_directory_and_be_named_in_full(own: Folder) -> None:
    (own.path / "sub").mkdir()
    for name in ("sub/a.wav", "b.wav"):
        recording(own.path / name)
    full = str(own.path / "b.wav")
    names = {"a": "sub/../sub/a.wav", "b": full, "c": "./b.wav"}
    own.write({k: {"audio_file": v, "transcript": "t"} for k, v in names.items()})
    assert set(library(own).voices) == {"a", "b", "c"}


def test_a_directory_may_be_given_relative_to_the_working_directory(
    own: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.write({"me": own.voice("me")})
    monkeypatch.chdir(own.path.parent)
    assert set(VoiceLibrary(Path("own")).voices) == set()
    found = VoiceLibrary(Path("own"))
    found.refresh()
    assert set(found.voices) == {"me"}


def test_a_voice_with_a_system_prompt_needs_no_recording(own: Folder) -> None:
    prompt = "<|scene_desc_start|>Calm.<|scene_desc_end|>"
    own.write({"calm": {"system_prompt": prompt, "audio_file": "gone.wav"}})
    assert library(own).voices["calm"] == Voice("calm", "", b"", prompt)


def test_text_is_read_as_utf8_in_every_locale(own: Folder) -> None:
    config = json.dumps({"多": {"system_prompt": "太乙真人 Ünd"}}, ensure_ascii=False)
    (own.path / "config.json").write_bytes(b"\xef\xbb\xbf" + config.encode())
    script = """
import sys
from pathlib import Path
from higgs_patches.lib.voices.library import VoiceLibrary
library = VoiceLibrary(Path(sys.argv[1]))
library.refresh()
print(ascii([(v.name, v.system_prompt) for v in library.voices.values()]))
"""
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": PATCHES}
    command = [sys.executable, "-c", script, str(own.path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == [("多", "太乙真人 Ünd")], done.stderr


@pytest.mark.parametrize("content", ["{", "[]", '"x"', "", "null", "\udcff", "[" * 100_000])
def test_a_broken_config_keeps_the_last_good_voices_and_says_so_once(
    own: Folder, shipped: Folder, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    own.write({"me": own.voice("me")})
    found = library(own, shipped)
    (own.path / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    before = found.voices
    for _ in range(3):
        assert not found.refresh()
    assert found.voices is before
    [said] = warnings(caplog)
    assert "config.json" in said
    assert "stays in use" in said
    own.write({"me": own.voice("me"), "you": own.voice("you")})
    assert found.refresh()
    assert {"me", "you"} < set(found.voices)


def test_a_directory_without_config_is_said_once_and_the_shipped_voices_speak(
    own: Folder, shipped: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    found = library(own, shipped)
    assert set(found.voices) == set(SHIPPED)
    [said] = warnings(caplog)
    assert str(own.path / "config.json") in said
    found.refresh()
    assert not warnings(caplog)


def test_new_changed_and_removed_voices_are_picked_up(own: Folder, shipped: Folder) -> None:
    one, two = own.voice("one"), {"audio_file": "two.wav", "transcript": "Later."}
    own.write({"one": one, "two": two})
    found = library(own, shipped)
    assert "two" not in found.voices
    recording(own.path / "two.wav", 30_000)
    assert found.refresh()
    assert "two" in found.voices
    recording(own.path / "one.wav", 48_000)
    assert found.refresh()
    assert found.voices["one"].audio == (own.path / "one.wav").read_bytes()
    own.write({"one": one | {"transcript": "Other words."}})
    assert found.refresh()
    assert "two" not in found.voices
    assert found.voices["one"].transcript == "Other words."
    own.write({"one": one, "two": two})
    assert found.refresh()
    assert "two" in found.voices


def test_a_recording_that_goes_bad_keeps_its_last_good_content(
    own: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    own.write({"me": own.voice("me")})
    found = library(own)
    (own.path / "me.wav").write_bytes(b"half of")
    for _ in range(3):
        assert not found.refresh()
    [said] = warnings(caplog)
    assert "stays as it was" in said
    assert resolve(found.voices, "me").transcript == "I am me."


def test_unchanged_files_are_not_read_again(
    own: Folder, shipped: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.write({"me": own.voice("me"), "bad": {}})
    found = library(own, shipped)

    def read(*_: Any, **__: Any) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(voice_recording, "read", read)
    monkeypatch.setattr(Path, "read_text", read)
    assert not found.refresh()


def test_openais_names_stand_for_shipped_voices(shipped: Folder) -> None:
    found = library(shipped).voices
    for name in ["alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage"]:
        assert resolve(found, name).name == KNOWN_ALIASES[name]
        assert name not in found
    assert {"shimmer", "verse"} < set(found.aliases)


def test_the_table_of_aliases_can_be_changed_while_the_server_runs(
    own: Folder, shipped: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    own.write({"me": own.voice("me")}, {"alloy": "me", "narrator": "belinda", "onyx": None})
    found = library(own, shipped)
    assert resolve(found.voices, "alloy").name == "me"
    assert resolve(found.voices, "narrator").name == "belinda"
    with pytest.raises(UnknownVoiceError, match="onyx"):
        resolve(found.voices, "onyx")
    own.write(aliases={"alloy": "vex"})
    assert found.refresh()
    assert resolve(found.voices, "alloy").name == "vex"
    assert resolve(found.voices, "onyx").name == KNOWN_ALIASES["onyx"]
    assert not warnings(caplog)
    own.write(aliases="{")
    assert not found.refresh()
    assert resolve(found.voices, "alloy").name == "vex"
    assert len(warnings(caplog)) == 1
    (own.path / "aliases.json").unlink()
    assert found.refresh()
    assert resolve(found.voices, "alloy").name == KNOWN_ALIASES["alloy"]


@pytest.mark.parametrize("target", ["nobody", 7, ["belinda"], {}, "alloy"])
def test_an_alias_of_no_voice_is_named_and_openais_names_still_speak(
    own: Folder, shipped: Folder, caplog: pytest.LogCaptureFixture, target: Any
) -> None:
    own.write({}, {"nova": target, "mine": target})
    found = library(own, shipped).voices
    assert resolve(found, "nova").name == KNOWN_ALIASES["nova"]
    assert "mine" not in found.aliases
    assert [said.split("'")[1] for said in warnings(caplog)] == ["nova", "mine"]


def test_a_table_alone_is_enough(
    own: Folder, shipped: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    own.write(aliases={"nova": "vex"})
    assert resolve(library(own, shipped).voices, "nova").name == "vex"
    assert not warnings(caplog)


def test_an_own_voice_wins_over_an_alias(own: Folder, shipped: Folder) -> None:
    own.write({"alloy": own.voice("alloy")}, {"alloy": "vex"})
    found = library(own, shipped).voices
    assert resolve(found, "alloy").transcript == "I am alloy."
    assert "alloy" not in found.aliases


def test_openais_names_speak_where_their_shipped_voice_is_missing(own: Folder) -> None:
    own.write({"first": own.voice("first"), "second": own.voice("second")})
    found = library(own).voices
    assert {resolve(found, name).name for name in KNOWN_ALIASES} == {"first"}


def test_an_unknown_voice_is_told_what_there_is(own: Folder) -> None:
    own.write({"me": own.voice("me"), "you": own.voice("you")}, {"we": "me"})
    found = library(own).voices
    for name in ("Me", "", "alloy ", "../me"):
        with pytest.raises(UnknownVoiceError) as refused:
            resolve(found, name)
        assert repr(name) in str(refused.value)
        assert "me, you" in str(refused.value)
        assert "we" in str(refused.value)
    with pytest.raises(UnknownVoiceError) as refused:
        resolve(found, "\u200d" * 10_000)
    assert len(str(refused.value)) < 1000


def test_without_any_voice_the_reason_is_told(own: Folder) -> None:
    found = library(own).voices
    assert not found.aliases
    with pytest.raises(UnknownVoiceError, match=f"no voices.*{own.path}"):
        resolve(found, "alloy")


def test_the_servers_own_route_is_given_the_voice(own: Folder) -> None:
    own.write({"me": own.voice("me"), "calm": {"system_prompt": "Calm."}}, {"i": "me"})
    found = library(own).voices
    audio, transcript, prompt = voices.tts_voice_raw(None, "i", "", found)
    assert base64.b64decode(audio) == found["me"].audio
    assert (transcript, prompt) == ("I am me.", None)
    assert voices.tts_voice_raw(None, "calm", "", found) == ("", "", "Calm.")
    with pytest.raises(ValueError, match="unknown"):
        voices.tts_voice_raw(None, "you", "", found)


class Request:
    """What the route reads of a request."""

    def __init__(self, found: Voices, **query: str) -> None:
        self.app = SimpleNamespace(state=SimpleNamespace(voice_presets=found))
        self.query_params = query


def test_the_list_is_read_by_open_webui_and_by_clients_of_the_plain_list(
    own: Folder, shipped: Folder
) -> None:
    own.write({"calm": {"system_prompt": "Calm."}})
    found = library(own, shipped).voices

    async def original(raw_request: Any) -> Any:
        raise AssertionError

    route = voices.listed(original)
    assert str(inspect.signature(route)) == str(inspect.signature(original))
    answer = json.loads(json.dumps(asyncio.run(awaited(route(Request(found))))))
    # Open WebUI: {voice["id"]: voice["name"] for voice in data.get("voices", [])}
    assert {v["id"]: v["name"] for v in answer.get("voices", [])} == {n: n for n in found}
    by_name = {v["id"]: v for v in answer["voices"]}
    assert by_name["calm"]["kind"] == "description"
    assert by_name["en_woman"]["kind"] == "recording"
    assert "alloy" in by_name["en_woman"]["aliases"]
    assert asyncio.run(awaited(route(Request(found, format="names")))) == ["calm", *SHIPPED]


def start(folder: Path, shipped: Folder, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Do what the server does at its start, with `shipped` beside the fork's own file."""
    monkeypatch.setattr(inspect, "getfile", lambda _: str(shipped.path.parent / "api_server.py"))
    shipped.path.rename(shipped.path.parent / "voice_presets")
    state = SimpleNamespace()

    async def init_app_state(
        engine_client: Any, audio_tokenizer: Any, model_config: Any, state: Any, args: Any
    ) -> None:
        state.voice_presets = {}

    asyncio.run(
        awaited(
            voices.with_voices(init_app_state)(
                None, None, None, state, SimpleNamespace(voice_presets_dir=str(folder))
            )
        )
    )
    return state


def test_voices_are_there_before_the_first_request(
    own: Folder, shipped: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.write({"me": own.voice("me")})
    state = start(own.path, shipped, monkeypatch)
    assert set(state.voice_presets) == {*SHIPPED, "me"}


def test_a_server_without_voices_says_so_at_its_start(
    own: Folder, shipped: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (shipped.path / "config.json").unlink()
    state = start(own.path, shipped, monkeypatch)
    assert not state.voice_presets
    assert "No voice can be used" in warnings(caplog)[-1]


class StopWatching(BaseException):
    """Ends the endless loop of the thread."""


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record what the thread sleeps, and end it after the fifth nap."""
    taken: list[float] = []

    real, caller = time.sleep, threading.current_thread()

    def sleep(seconds: float) -> None:
        if threading.current_thread() is not caller:  # left by another test
            real(seconds)
            return
        taken.append(seconds)
        if len(taken) >= 5:
            raise StopWatching

    monkeypatch.setattr(voices, "time", SimpleNamespace(sleep=sleep))
    return taken


def test_the_thread_waits_between_two_looks_and_survives_a_failure(
    naps: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[int] = []

    class Library:
        voices = "new"

        def refresh(self) -> bool:
            looks.append(1)
            if len(looks) == 2:
                raise RuntimeError("the disk is gone")
            return len(looks) == 3

    state = SimpleNamespace(voice_library=Library(), voice_presets="old")
    with pytest.raises(StopWatching):
        voices.load_voice_presets(state, "", 7)
    assert naps == [7] * 5
    assert len(looks) == 4
    assert state.voice_presets == "new"
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_of_nothing_means_never(naps: list[float], interval: int) -> None:
    voices.load_voice_presets(SimpleNamespace(), "", interval)
    assert not naps


def test_a_change_of_the_same_size_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("a")
    before = voice_library.fingerprint(file)
    file.write_text("b")
    os.utime(file, ns=(1, 1))
    assert voice_library.fingerprint(file) != before
