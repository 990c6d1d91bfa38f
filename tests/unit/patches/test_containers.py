"""PCM to files: one whole file for each answer, with the real ffmpeg."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import threading
import time
import wave
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from higgs_patches.lib.audio import SAMPLE_RATE, containers
from higgs_patches.lib.audio.containers import CONTAINERS, EncodingError

RATE = SAMPLE_RATE
COMPRESSED = ("mp3", "flac", "opus", "aac")
MAGIC = {"wav": b"RIFF", "flac": b"fLaC", "opus": b"OggS"}


@pytest.fixture(autouse=True)
def _no_process_left(ffmpeg_on_path: None) -> Iterator[None]:
    """No ffmpeg outlives its test, not even as a zombie."""
    before = children()
    yield
    until = time.monotonic() + 10
    while children() - before:
        assert time.monotonic() < until, "a process was left behind"
        time.sleep(0.01)


def children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found.update((task / "children").read_text().split())
    return found


def tone(seconds: float, hertz: float = 440.0, rate: int = RATE) -> bytes:
    angles = 2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate
    return bytes((8000 * np.sin(angles)).astype("<i2").tobytes())


async def pieces(pcm: bytes, size: int) -> AsyncGenerator[bytes, None]:
    for first in range(0, len(pcm), size):
        await asyncio.sleep(0)
        yield pcm[first : first + size]


def streamed(
    pcm: bytes, name: str, size: int = 9600, rate: int = RATE, speed: float = 1.0
) -> bytes:
    async def run() -> bytes:
        source = pieces(pcm, size)
        return b"".join([x async for x in containers.stream(source, name, rate=rate, speed=speed)])

    return asyncio.run(run())


def whole(pcm: bytes, name: str, rate: int = RATE, speed: float = 1.0) -> bytes:
    return asyncio.run(containers.whole(pcm, name, rate=rate, speed=speed))


def decoded(file: bytes, *form: str) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """The samples that ffmpeg, as a player, finds in a file that it reads from a pipe."""
    command = ["ffmpeg", "-v", "error", *form, "-i", "-", "-f", "s16le", "-"]
    done = subprocess.run(command, input=file, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    return np.frombuffer(done.stdout, "<i2")


def pitch(samples: np.ndarray[tuple[int], np.dtype[np.int16]]) -> float:
    """The strongest frequency, in hertz."""
    middle = samples[len(samples) // 4 : -len(samples) // 4].astype(float)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    return float(spectrum.argmax() * RATE / len(middle))


def test_pcm_is_passed_on() -> None:
    pcm = tone(1.3)
    assert streamed(pcm, "pcm", size=999) == whole(pcm, "pcm") == pcm


@pytest.mark.parametrize("how", ["streamed", "whole"])
def test_wav_is_one_file_that_readers_read_to_the_end(how: str, tmp_path: Path) -> None:
    pcm = tone(1.3)
    file = streamed(pcm, "wav") if how == "streamed" else whole(pcm, "wav")
    assert len(file) == 44 + len(pcm)
    assert file.count(b"RIFF") == 1
    path = tmp_path / "speech.wav"
    path.write_bytes(file)
    for source in (str(path), io.BytesIO(file)):
        with wave.open(source) as reader:
            assert (reader.getframerate(), reader.getnchannels(), reader.getsampwidth()) == (
                RATE,
                1,
                2,
            )
            assert reader.readframes(reader.getnframes()) == pcm
    for place in (path, io.BytesIO(file)):
        samples, rate = soundfile.read(place, dtype="int16")
        assert rate == RATE
        assert samples.tobytes() == pcm
    assert decoded(file).tobytes() == pcm


def test_whole_wav_has_exact_sizes() -> None:
    pcm = tone(1.3)
    file = whole(pcm, "wav")
    assert int.from_bytes(file[4:8], "little") == len(file) - 8
    assert int.from_bytes(file[40:44], "little") == len(pcm)


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("how", ["streamed", "whole"])
def test_compressed_file_is_one_and_whole(name: str, how: str) -> None:
    pcm = tone(2.0)
    file = streamed(pcm, name, size=4801) if how == "streamed" else whole(pcm, name)
    assert file.startswith(MAGIC.get(name, b"\xff"))
    samples = decoded(file, *(["-f", "aac"] if name == "aac" else []))
    if name == "opus":  # a decoder's own rate
        samples = samples[::2]
    assert 2.0 <= len(samples) / RATE < 2.1
    assert pitch(samples) == pytest.approx(440, abs=2)
    if name == "flac":
        assert samples.tobytes() == pcm
    if name == "aac":
        assert file[:2] in (b"\xff\xf1", b"\xff\xf9")  # ADTS
    if name == "opus":
        assert file[28:36] == b"OpusHead"


def test_whole_flac_says_how_long_it_is() -> None:
    """libsndfile cannot read one that does not, as a streamed one cannot."""
    pcm = tone(2.0)
    samples, _ = soundfile.read(io.BytesIO(whole(pcm, "flac")), dtype="int16")
    assert samples.tobytes() == pcm


@pytest.mark.parametrize("name", CONTAINERS)
def test_equal_speech_gives_equal_bytes(name: str) -> None:
    pcm = tone(0.5)
    assert streamed(pcm, name) == streamed(pcm, name, size=1000)
    assert whole(pcm, name) == whole(pcm, name)


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("speed", [1.0, 1.5])
def test_file_comes_while_the_speech_is_made(name: str, speed: float) -> None:
    """The rest of the speech is made only after the file's first audio is there."""
    came = asyncio.Event()
    got = b""

    async def source() -> AsyncGenerator[bytes, None]:
        yield tone(0.5)
        await came.wait()
        yield tone(0.5)

    async def run() -> None:
        nonlocal got
        async for piece in containers.stream(source(), name, speed=speed):
            got += piece
            if name != "opus" or got.count(b"OggS") > 2:  # two pages are its header
                came.set()

    asyncio.run(asyncio.wait_for(run(), 60))
    assert came.is_set()


@pytest.mark.parametrize("name", ["pcm", "wav", "mp3"])
@pytest.mark.parametrize("speed", [0.25, 0.5, 1.5, 2.0, 4.0])
def test_speed_changes_the_length_and_not_the_pitch(name: str, speed: float) -> None:
    pcm = tone(4.0)
    for file in (streamed(pcm, name, speed=speed), whole(pcm, name, speed=speed)):
        raw = ["-f", "s16le", "-ar", str(RATE), "-ac", "1"] if name == "pcm" else []
        samples = decoded(file, *raw)
        assert len(samples) / RATE == pytest.approx(4.0 / speed, abs=0.1)
        assert pitch(samples) == pytest.approx(440, abs=5)


@pytest.mark.parametrize("name", ["pcm", "wav"])
def test_other_rates_are_resampled(name: str) -> None:
    file = streamed(tone(2.0, rate=16_000), name, rate=16_000)
    samples = np.frombuffer(file[len(file) % 2 + (44 if name == "wav" else 0) :], "<i2")
    assert len(samples) / RATE == pytest.approx(2.0, abs=0.01)
    assert pitch(samples) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("name", ["wav", "mp3"])
def test_an_error_of_the_speech_comes_out(name: str) -> None:
    """After some of the file, and without an end that would make it look whole."""

    async def source() -> AsyncGenerator[bytes, None]:
        yield tone(1.0)
        raise LookupError("the engine is gone")

    got = []

    async def run() -> None:
        async for piece in containers.stream(source(), name):
            got.append(piece)

    with pytest.raises(LookupError, match="the engine is gone"):
        asyncio.run(run())


@pytest.mark.parametrize("name", ["wav", "opus"])
def test_a_listener_who_leaves_ends_the_source_too(name: str) -> None:
    ended = []

    async def source() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield tone(0.5)
                await asyncio.sleep(0.001)
        finally:
            ended.append(True)

    async def run() -> None:
        body = containers.stream(source(), name)
        assert await anext(body)
        await body.aclose()
        for _ in range(100):
            await asyncio.sleep(0.001)

    asyncio.run(run())
    assert ended == [True]


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_a_cancelled_answer_leaves_nothing(name: str) -> None:
    """Not even when the client had stopped reading and ffmpeg waits for it."""
    noise = np.random.default_rng(0).integers(-9999, 9999, RATE, "<i2").tobytes()
    given = 0

    async def source() -> AsyncGenerator[bytes, None]:
        nonlocal given
        while True:
            yield noise
            given += 1

    async def read(started: asyncio.Event) -> None:
        async for _ in containers.stream(source(), name):
            started.set()
            await asyncio.Event().wait()

    async def run() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(read(started))
        await started.wait()
        seen = -1
        while seen != given:  # until ffmpeg takes no more
            seen = given
            await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        assert open_pipes() <= pipes

    pipes = open_pipes()
    asyncio.run(run())


def open_pipes() -> int:
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that the loop itself uses
            found += "pipe:" in str(descriptor.readlink())
    return found


@pytest.mark.parametrize("how", [streamed, whole])
def test_missing_ffmpeg_is_named(
    how: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert how(tone(0.1), "wav").startswith(b"RIFF")
    with pytest.raises(EncodingError, match="ffmpeg is not on PATH"):
        how(tone(0.1), "mp3")


@pytest.mark.parametrize("how", [streamed, whole])
@pytest.mark.parametrize("reads", [True, False])
def test_what_ffmpeg_complains_about_is_told(
    how: type, reads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text(
        f"#!/bin/sh\n{'cat > /dev/null' if reads else ':'}\necho no codec >&2\nexit 3"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(EncodingError, match="status 3: no codec"):
        how(tone(20.0), "mp3")


def test_many_answers_at_once_are_not_mixed_up() -> None:
    names = [*CONTAINERS, "opus", "mp3"]

    async def one(name: str, hertz: float) -> bytes:
        source = pieces(tone(1.0, hertz), 3001)
        return b"".join([x async for x in containers.stream(source, name, speed=1.25)])

    async def run() -> list[bytes]:
        return await asyncio.gather(*[one(n, 300.0 + 100 * i) for i, n in enumerate(names)])

    raw = ["-f", "s16le", "-ar", str(RATE), "-ac", "1"]
    for i, (name, file) in enumerate(zip(names, asyncio.run(run()), strict=True)):
        samples = decoded(file, *(raw if name == "pcm" else ()))
        samples = samples[::2] if name == "opus" else samples
        assert pitch(samples) == pytest.approx(300 + 100 * i, abs=6), name


def test_event_loop_is_not_held_up() -> None:
    """While ffmpeg has not read what it was given, other tasks go on."""
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(threading.active_count())
            await asyncio.sleep(0)

    async def run() -> bytes:
        task = asyncio.create_task(tick())
        body = containers.stream(pieces(tone(30.0), 1 << 20), "mp3")
        file = b"".join([piece async for piece in body])
        task.cancel()
        return file

    assert len(decoded(asyncio.run(run()))) >= 30 * RATE
    assert len(ticks) > 20
