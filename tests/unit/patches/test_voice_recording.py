"""Recordings of any kind become the one kind that the codec takes, or are refused with a reason."""

from __future__ import annotations

import io
import itertools
import math
import os
import struct
import subprocess
import wave
from pathlib import Path

import pytest
from higgs_patches.lib.audio import SAMPLE_RATE
from higgs_patches.lib.voices import recording
from higgs_patches.lib.voices.recording import VoiceError

pytestmark = pytest.mark.usefixtures("ffmpeg_on_path")


def make(path: Path, source: str, *options: str) -> Path:
    """Let ffmpeg write an audio file from one of its generators."""
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, *options, str(path)]
    subprocess.run(command, check=True)
    return path


def samples_of(data: bytes) -> list[int]:
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (
            1,
            2,
            SAMPLE_RATE,
        )
        count = file.getnframes()
        return list(struct.unpack(f"<{count}h", file.readframes(count)))


def pitch(samples: list[int]) -> float:
    """Return Hz, from the number of zero crossings."""
    crossings = sum((a < 0) != (b < 0) for a, b in itertools.pairwise(samples))
    return crossings / 2 / (len(samples) / SAMPLE_RATE)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.wav", ["-ar", "8000", "-c:a", "pcm_u8"]),
        ("x.wav", ["-ar", "96000", "-ac", "2", "-c:a", "pcm_s24le"]),
        ("x.wav", ["-ar", "44100", "-ac", "6", "-c:a", "pcm_f32le"]),
        ("x.mp3", ["-ar", "44100", "-ac", "2"]),
        ("x.flac", ["-ar", "48000"]),
        ("x.ogg", ["-ar", "44100", "-c:a", "libvorbis"]),
        ("x.opus", ["-ar", "48000"]),
        ("x.m4a", ["-ar", "44100"]),
        ("x.webm", ["-ar", "48000", "-ac", "2"]),
        ("named.wav", ["-ar", "44100", "-f", "mp3"]),
        ("no extension", ["-ar", "44100", "-f", "mp3"]),
    ],
)
def test_every_format_rate_and_number_of_channels_is_taken(
    tmp_path: Path, name: str, options: list[str]
) -> None:
    path = make(tmp_path / name, "sine=frequency=440:duration=3", *options)
    samples = samples_of(recording.read(path))
    assert abs(len(samples) / SAMPLE_RATE - 3) < 0.1
    assert abs(pitch(samples) - 440) < 10
    assert max(samples) > 1_000


def test_a_recording_that_is_right_already_keeps_every_sample(tmp_path: Path) -> None:
    wanted = [int(20_000 * math.sin(i / 7)) for i in range(2 * SAMPLE_RATE)]
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(struct.pack(f"<{len(wanted)}h", *wanted))
    assert samples_of(recording.read(tmp_path / "x.wav")) == wanted


def test_the_longest_recording_is_taken(tmp_path: Path) -> None:
    path = make(tmp_path / "x.wav", "sine=duration=30", "-ar", "24000")
    assert len(samples_of(recording.read(path))) == 30 * SAMPLE_RATE


@pytest.mark.parametrize(
    ("source", "options", "reason"),
    [
        ("sine=duration=30.1", [], "is longer than 30 s"),
        ("sine=duration=0.9", [], r"lasts 0\.90 s, and 1 s is the least"),
        ("anullsrc=duration=3", [], "is silent"),
        ("aevalsrc=0.002*sin(2000*t):d=3", [], "is silent"),
        ("aevalsrc=0.5:d=3", [], "is silent"),
        ("aevalsrc=sin(2000*t)|-sin(2000*t):c=stereo:d=3", [], "is silent .mixed down"),
    ],
)
def test_what_is_no_voice_is_refused(
    tmp_path: Path, source: str, options: list[str], reason: str
) -> None:
    path = make(tmp_path / "x.wav", source, "-ar", "24000", *options)
    with pytest.raises(VoiceError, match=reason) as refused:
        recording.read(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound\n" * 1000, b"\0" * 100_000])
def test_what_is_no_audio_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(VoiceError, match=r"x\.wav cannot be decoded as audio: \S"):
        recording.read(tmp_path / "x.wav")


def test_a_picture_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "x.png", "color=duration=1", "-frames:v", "1")
    with pytest.raises(VoiceError, match="cannot be decoded"):
        recording.read(path)


def test_a_playlist_cannot_name_another_file(tmp_path: Path) -> None:
    sound = make(tmp_path / "x.ts", "sine=duration=3", "-c:a", "aac")
    for name, content in (
        ("x.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\n{sound}\n#EXT-X-ENDLIST\n"),
        ("x.ffconcat", "ffconcat version 1.0\nfile x.ts\n"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(VoiceError, match="cannot be decoded"):
            recording.read(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(VoiceError, match="is not a regular file"):
            recording.read(tmp_path / name)
    with pytest.raises(VoiceError, match=r"none\.wav: No such file"):
        recording.read(tmp_path / "none.wav")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.wav").touch(0)
    with pytest.raises(VoiceError, match=r"x\.wav: Permission denied"):
        recording.read(tmp_path / "x.wav")


def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "x.wav", "sine=duration=3")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VoiceError, match="ffmpeg: No such file"):
        recording.read(path)
