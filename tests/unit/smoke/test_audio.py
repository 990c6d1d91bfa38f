"""Answers that are one whole file of their format, and answers that are not."""

from __future__ import annotations

import importlib.util
import io
import math
import random
import struct
import wave
from array import array
from collections.abc import Callable
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest

from higgs_image.audio import SAMPLE_RATE as RATE
from higgs_image.smoke import audio
from higgs_image.smoke.audio_structure import BadAudioError
from higgs_image.smoke.sound import Sound, similarity, spectrum
from higgs_image.workspace import PROJECT


def load(name: str) -> ModuleType:
    folder = PROJECT / "fakes/upstream/submodule/boson_multimodal/audio_processing"
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = load("files")


def tone(seconds: float = 1.0, level: float = 0.3) -> array[int]:
    count = int(seconds * RATE)
    return array("h", (int(32767 * level * math.sin(x / 8)) for x in range(count)))


def wav(samples: array[int], rate: int = RATE, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.tobytes())
    return file.getvalue()


def encoded(
    form: str, codec: str, rate: int = RATE, layout: str = "mono", bits: str | None = None
) -> bytes:
    """A file as ffmpeg makes it."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as out:
        stream: Any = out.add_stream(codec, rate=rate, layout=layout)
        if bits:
            stream.codec_context.format = bits
        channels = 2 if layout == "stereo" else 1
        samples = tone(1.5)
        interleaved = array("h", (x for x in samples for _ in range(channels)))
        frame = av.AudioFrame("s16", layout, len(samples))
        frame.sample_rate, frame.pts = RATE, 0
        frame.planes[0].update(interleaved.tobytes().ljust(frame.planes[0].buffer_size, b"\0"))
        context = stream.codec_context
        resampler = av.AudioResampler(
            context.format, layout, rate, frame_size=context.frame_size or None
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return file.getvalue()


SAMPLES = tone(1.5).tobytes()
GOOD: dict[str, Callable[[], tuple[str, bytes]]] = {
    "pcm": lambda: ("pcm", SAMPLES),
    "wav": lambda: ("wav", wav(tone(1.5))),
    "wav of unknown length": lambda: (
        "wav",
        b"RIFF\xff\xff\xff\xffWAVEfmt " + wav(tone(1.5))[16:40] + b"\xff\xff\xff\xff" + SAMPLES,
    ),
    "wav with another chunk": lambda: (
        "wav",
        b"RIFF" + struct.pack("<I", 46 + len(SAMPLES)) + wav(tone(1.5))[8:36]
        + b"LIST\x01\0\0\0a\0data" + struct.pack("<I", len(SAMPLES)) + SAMPLES,
    ),
    "mp3": lambda: ("mp3", FILES.mp3(SAMPLES)),
    "mp3 of ffmpeg": lambda: ("mp3", encoded("mp3", "libmp3lame")),
    "flac": lambda: ("flac", FILES.flac(SAMPLES)),
    "flac of ffmpeg": lambda: ("flac", encoded("flac", "flac")),
    "opus": lambda: ("opus", FILES.opus(SAMPLES)),
    "opus of ffmpeg": lambda: ("opus", encoded("ogg", "libopus", 48_000)),
    "aac": lambda: ("aac", FILES.aac(SAMPLES)),
    "aac of ffmpeg": lambda: ("aac", encoded("adts", "aac")),
}  # fmt: skip


@pytest.mark.parametrize("what", GOOD)
def test_good_files(what: str) -> None:
    form, data = GOOD[what]()
    found = audio.read(data, form)
    assert found.seconds == pytest.approx(1.5, abs=0.12)
    assert 0.05 < found.loudness < 0.4
    assert found.clipped == 0


MP3, AAC = FILES.mp3(SAMPLES), FILES.aac(SAMPLES)
OPUS, FLAC, WAV = FILES.opus(SAMPLES), FILES.flac(SAMPLES), wav(tone(1.5))

BAD: dict[str, tuple[str, bytes, str]] = {
    "nothing": ("pcm", b"", "no bytes"),
    "half a sample": ("pcm", SAMPLES[:-1], "not a whole number"),
    "wav as pcm": ("pcm", WAV, "at the beginning, got b'RIFF'"),
    "JSON after pcm": ("pcm", SAMPLES + b'{"error": {"message": "x"}}', "ends with JSON"),
    "pcm as wav": ("wav", SAMPLES, "RIFF and WAVE header"),
    "two wav files": ("wav", WAV + WAV, "its header says"),
    "two wav files of unknown length": (
        "wav",
        (b"RIFF\xff\xff\xff\xffWAVEfmt " + WAV[16:40] + b"\xff\xff\xff\xff" + SAMPLES) * 2,
        "2 WAV files",
    ),
    "wav without samples": ("wav", wav(array("h")), "no samples"),
    "wav without a data chunk": ("wav", b"RIFF\x04\0\0\0WAVE", "no samples"),
    "wav that was cut": ("wav", WAV[:-1000], "its header says"),
    "wav with a wrong size of samples": (
        "wav", WAV[:40] + struct.pack("<I", 100) + WAV[44:], "100 bytes of samples",
    ),
    "wav at 16 kHz": ("wav", wav(tone(), 16_000), "16000"),
    "stereo wav": ("wav", wav(tone(), channels=2), "got 2"),
    "two mp3 files": ("mp3", MP3 + b"ID3\x04\0\0\0\0\0\0" + MP3, "expected a frame or the end"),
    "mp3 that was cut": ("mp3", MP3[:-10], "not whole"),
    "JSON after mp3": ("mp3", MP3 + b'{"error": 1}', "expected a frame or the end"),
    "no mp3": ("mp3", b"ID3\x04\0\0\0\0\0\0", "no frames"),
    "two flac files": ("flac", FLAC + FLAC, "2 FLAC files"),
    "flac without a whole header": ("flac", FLAC[:20], "header is not whole"),
    "flac that was cut": ("flac", FLAC[: len(FLAC) // 2], "cannot be decoded"),
    "flac that lacks a frame": (
        "flac",
        FLAC[: FLAC.rindex(FLAC[42:44])],
        "header says 36000 samples",
    ),
    "flac of 24 bits": ("flac", encoded("flac", "flac", bits="s32"), "got 24"),
    "two ogg files": ("opus", OPUS + OPUS, "got 2"),
    "ogg that was cut": ("opus", OPUS[:-10], "not whole"),
    "ogg without an end": ("opus", OPUS[: OPUS.rfind(b"OggS")], "not marked as the end"),
    "JSON after ogg": ("opus", OPUS + b'{"error": 1}', "expected an Ogg page"),
    "aac that was cut": ("aac", AAC[:-10], "not whole"),
    "mp3 as aac": ("aac", MP3, "expected a frame"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_files(what: str) -> None:
    form, data, message = BAD[what]
    with pytest.raises(BadAudioError, match=message):
        audio.read(data, form)


@pytest.mark.parametrize(
    ("form", "container", "codec", "rate", "layout", "message"),
    [
        ("mp3", "mp3", "libmp3lame", 44_100, "mono", "not MPEG 2"),
        ("mp3", "mp3", "libmp3lame", RATE, "stereo", "got 2"),
        ("flac", "flac", "flac", 48_000, "mono", "48000"),
        ("opus", "ogg", "libopus", 48_000, "stereo", "got 2"),
        ("opus", "ogg", "flac", RATE, "mono", "got flac"),
        ("aac", "adts", "aac", 44_100, "mono", "sampling frequency"),
    ],
)
def test_files_of_another_kind(
    form: str, container: str, codec: str, rate: int, layout: str, message: str
) -> None:
    with pytest.raises(BadAudioError, match=message):
        audio.read(encoded(container, codec, rate, layout), form)


def heard(samples: array[int]) -> Sound:
    return Sound(np.array(samples, np.int16))


def test_level_clipping_and_silence() -> None:
    quiet = array("h", bytes(2 * RATE))
    whole = heard(tone(1.0) + quiet + tone(1.0) + quiet + quiet)
    assert whole.seconds == 5
    assert whole.silence_at_end == pytest.approx(2, abs=0.1)
    assert whole.longest_silence == pytest.approx(1, abs=0.1)
    assert whole.clipped == 0
    assert whole.peak == pytest.approx(0.3, abs=0.01)
    assert heard(quiet).loudness == 0 and heard(quiet).silence_at_end == 1
    assert heard(quiet + tone(1.0)).longest_silence == pytest.approx(1, abs=0.1)
    loud = heard(array("h", (max(-32768, min(32767, 3 * x)) for x in tone(level=0.9))))
    assert loud.clipped > 0.5
    noise = heard(array("h", (random.Random(1).randint(-9000, 9000) for _ in range(RATE))))
    assert noise.silence_at_end == noise.longest_silence == 0
    nothing = heard(array("h"))
    assert (nothing.loudness, nothing.peak, nothing.silence_at_end, nothing.clipped) == (0, 0, 0, 0)


def test_an_offset_is_not_loudness() -> None:
    constant = heard(array("h", [8000] * RATE))
    assert constant.offset == pytest.approx(8000 / 32768) and constant.loudness == 0
    assert spectrum(constant) == (0, 0)
    assert heard(tone()).offset == pytest.approx(0, abs=0.001)


def test_spectrum() -> None:
    above, strongest = spectrum(heard(tone()))  # 477 Hz
    assert above < 0.01 and strongest > 0.99
    rng = random.Random(1)
    above, strongest = spectrum(heard(array("h", (rng.randint(-9000, 9000) for _ in range(RATE)))))
    assert above == pytest.approx(2 / 3, abs=0.05) and strongest < 0.05


def test_similarity() -> None:
    one = heard(tone())
    assert similarity(one, heard(array("h", (x // 2 for x in tone())))) > 0.99
    assert abs(similarity(one, heard(array("h", (x % 251 for x in range(RATE)))))) < 0.5
    assert similarity(one, heard(array("h", [8000] * RATE))) == 0
