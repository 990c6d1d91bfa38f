"""Checks and limits that no real server of a test can reach: they decide on real weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from higgs_image import process
from higgs_image.audio import SAMPLE_RATE
from higgs_image.smoke import limits, transcript
from higgs_image.smoke.checks import load, speech
from higgs_image.smoke.checks.model import (
    TEXT,
    CheckFailedError,
    ImageUnderTest,
    UndecidedError,
)
from higgs_image.smoke.client import TimedAnswer
from higgs_image.smoke.limits import INFORMATION, LIMITS
from higgs_image.smoke.record import DeviceType
from higgs_image.smoke.sound import Sound
from higgs_image.workspace import PROJECT


def voice(*parts: tuple[float, float]) -> Sound:
    """A sound of some harmonics: seconds and level of each part, of a full scale of 1."""
    chunks = []
    for seconds, level in parts:
        time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        wave = sum(np.sin(2 * np.pi * 150 * n * time) for n in range(1, 12)) / 3
        chunks.append(np.clip(32_768 * level * wave, -32_768, 32_767).astype(np.int16))
    return Sound(np.concatenate(chunks))


def image(*, device: DeviceType = "gpu", sound: Sound | None = None) -> ImageUnderTest:
    server: Any = None
    found = ImageUnderTest(server, Path("/nowhere"), device)
    if sound is not None:
        found.spoken["wav"] = sound
    return found


def judged(sound: Sound) -> dict[str, Any]:
    under_test = image(sound=sound)
    return under_test.judge(speech.sound(under_test))


def test_good_sound() -> None:
    figures = judged(voice((2, 0.1), (0.7, 0), (1, 0.1), (0.4, 0)))
    assert figures["longest_silence_s"] == 0.7 and figures["silence_at_end_s"] == 0.4


NOISE = np.random.default_rng(1).integers(-3000, 3000, 3 * SAMPLE_RATE, np.int16)
TONE = (3000 * np.sin(np.arange(3 * SAMPLE_RATE) / 8)).astype(np.int16)


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (voice((3, 0.005)), "expected loudness 0.01 to 0.35, got"),
        (voice((3, 2.0)), "expected clipped at most 0.001, got"),
        (voice((2, 0.1), (1.6, 0.0001)), "expected silence_at_end_s at most 1.5, got 1.6"),
        (voice((1, 0.1), (2.5, 0.0001), (1, 0.1)), "expected longest_silence_s at most 2, got 2.5"),
        (
            Sound(np.full(3 * SAMPLE_RATE, 8000, np.int16)),
            "expected offset at most 0.01, got 0.244",
        ),
        (Sound(NOISE), "expected above_4_khz at most 0.5, got 0.67"),
        (Sound(TONE), "expected strongest_band at most 0.8, got"),
    ],
)
def test_bad_sound(sound: Sound, reason: str) -> None:
    with pytest.raises(CheckFailedError, match=reason):
        judged(sound)


def test_random_weights_have_no_words() -> None:
    with pytest.raises(UndecidedError, match="random weights"):
        speech.words(image(device="cpu", sound=voice((3, 0.1))))
    with pytest.raises(UndecidedError, match="no good recording"):
        speech.sound(image())
    with pytest.raises(UndecidedError, match="not every format"):
        speech.formats(image(sound=voice((3, 0.1))))


@pytest.mark.parametrize("heard", [TEXT, TEXT.lower().replace(",", "")])
def test_the_right_words(heard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "transcribe", lambda _: heard)
    assert speech.words(image())["word_errors"] == 0


def test_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "transcribe", lambda _: "The image starts and then it hums.")
    with pytest.raises(CheckFailedError, match=r"expected word_errors at most 0.25, got"):
        image().judge(speech.words(image()))


def test_a_recognizer_is_optional() -> None:
    with pytest.raises(UndecidedError, match="pip install faster-whisper"):
        speech.words(image())


class Fake:
    """A server whose log, metrics and processes a test sets."""

    def __init__(self, log: bytes = b"", metrics: bytes = b"", processes: tuple[int, ...] = ()):
        self.log, self.metrics, self.processes = log, metrics, list(processes)
        self.client = self

    def all_logs(self) -> bytes:
        return self.log

    def process_ids(self) -> list[int]:
        return self.processes

    def get(self, _: str) -> TimedAnswer:
        return TimedAnswer(200, "text/plain", self.metrics, 0, 0, 1)


def served(**given: Any) -> ImageUnderTest:
    found = image()
    found.server, found.voice = Fake(**given), "belinda"  # type: ignore[assignment]
    return found


APPLICATIONS = "7, 2900\n8, 70000\n9, 512\n"


def test_memory_of_both_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    said = process.Completed(0, APPLICATIONS, "")
    monkeypatch.setattr(process, "ask", lambda *_: said)
    under_test = served(processes=(5, 7, 8))
    measured = under_test.judge(load.gpu_memory(under_test))
    assert measured == {"server_gpu_mib": 2900, "engine_gpu_mib": 70_000}
    said = process.Completed(0, APPLICATIONS.replace("2900", "5200"), "")
    with pytest.raises(CheckFailedError, match="expected server_gpu_mib at most 4300, got 5200"):
        under_test.judge(load.gpu_memory(under_test))
    for hidden in ("", "7, [N/A]\n8, [N/A]\n", "No running processes found\n"):
        said = process.Completed(0, hidden, "")
        with pytest.raises(UndecidedError, match="nvidia-smi does not list"):
            load.gpu_memory(under_test)
    with pytest.raises(UndecidedError, match="has no GPU memory"):
        load.gpu_memory(image(device="cpu"))


def test_preemptions_are_added_up_over_all_engines() -> None:
    text = (
        b'vllm:num_preemptions_total{engine="0"} 3.0\nvllm:num_preemptions_total{engine="1"} 1.0\n'
    )
    assert load._preemptions(served(metrics=text)) == 4
    with pytest.raises(CheckFailedError, match="/metrics does not have vllm:num_preemptions"):
        load._preemptions(served(metrics=b"vllm:num_requests_running 0.0\n"))


def test_the_cache_has_to_be_in_the_log() -> None:
    with pytest.raises(CheckFailedError, match="does not have the size of the KV cache"):
        load.listeners(served(log=b"INFO nothing of it"))


# Limits -------------------------------------------------------------------------------------------


def test_the_table_of_the_documentation_is_the_one_in_force() -> None:
    assert limits.markdown() in (PROJECT / "docs" / "smoke-test.md").read_text()


def test_each_limit_has_a_reason_and_a_bound() -> None:
    for name, limit in LIMITS.items():
        assert limit.reason and limit.meaning, name
        assert limits.NO_LIMIT not in (limit.gpu, limit.cpu) or limit.gpu != limit.cpu, name
    assert not LIMITS.keys() & INFORMATION.keys()


@pytest.mark.parametrize(
    ("figures", "device", "found"),
    [
        ({"first_audio_s": 30.1}, "gpu", ["expected first_audio_s at most 5, got 30.1"]),
        ({"first_audio_s": 5, "offset": 0.0}, "gpu", []),
        ({"length_ratio": 0.5}, "gpu", ["expected length_ratio 0.65 to 1.6, got 0.5"]),
        ({"length_ratio": 0.72}, "gpu", []),
        ({"length_ratio": 0.89}, "cpu", ["expected length_ratio 0.9 to 1.15, got 0.89"]),
        ({"length_error_s": 2.0}, "gpu", []),
        ({"length_error_s": -0.04}, "cpu", ["expected length_error_s -0.03 to 0.15, got -0.04"]),
        ({"similarity": float("nan")}, "cpu", ["expected similarity at least 0.95, got nan"]),
        ({"voice": "x", "bytes": 10**9}, "cpu", []),
        ({"growth_mb": 200, "chunks": 1}, "gpu",
         ["expected growth_mb at most 160, got 200", "expected chunks at least 2, got 1"]),
    ],
)  # fmt: skip
def test_violations(figures: dict[str, Any], device: DeviceType, found: list[str]) -> None:
    assert limits.violations(figures, device) == found
