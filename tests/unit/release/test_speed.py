"""An image must not be slower than the last release by more than a set share."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from higgs_image.release import notes, speed
from higgs_image.smoke.record import CheckResult, DeviceType, Record, SmokeDevice, SmokeImage
from higgs_image.verdict import Verdict

DIGEST = f"sha256:{'a' * 64}"


def record(
    card: str = "NVIDIA L40S",
    kind: DeviceType = "gpu",
    verdict: Verdict = Verdict.PASS,
    **change: Any,
) -> Record:
    measured = {
        "at_once": 16, "audio_per_s": 15.9, "audio_tokens_per_s": 398, "first_sound_p50_s": 0.2,
        "first_sound_p95_s": 0.4, "smooth_share": 1.0, **change,
    }  # fmt: skip
    return Record(
        1, Verdict.PASS, "", SmokeImage("i", DIGEST), SmokeDevice(kind, card, 1, "550.90"),
        datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC), 60.0,
        [CheckResult("bench", verdict, False, measured=measured)],
    )  # fmt: skip


def slower(figure: str, value: float) -> Record:
    changed: Any = {figure: value}
    return record(**changed)


def reasons(now: list[Record], before: list[Record], share: float = 0.1) -> list[str]:
    return [x.reason for x in speed.refusals(now, before, share)]


def test_equal_and_faster_images_are_not_refused() -> None:
    assert reasons([record()], [record()]) == []
    assert reasons([record(audio_per_s=30.0, first_sound_p95_s=0.1)], [record()]) == []
    assert reasons([record(first_sound_p95_s=0.43)], [record()]) == []


@pytest.mark.parametrize(
    ("figure", "value", "says"),
    [("audio_per_s", 13.0, "its audio_per_s is 13, 22 % worse than 15.9"),
     ("first_sound_p95_s", 0.5, "its first_sound_p95_s is 0.5, 25 % worse than 0.4")],
)  # fmt: skip
def test_slower_image_is_refused_by_the_figure(figure: str, value: float, says: str) -> None:
    [reason] = reasons([slower(figure, value)], [record()])
    assert says in reason
    assert reasons([slower(figure, value)], [record()], 0.5) == []


def test_last_benchmark_counts() -> None:
    assert reasons([record(audio_per_s=1.0), record()], [record()]) == []


@pytest.mark.parametrize(
    "now",
    [[], [record(kind="cpu")], [record(verdict=Verdict.INCONCLUSIVE)]],
    ids=("none", "cpu", "?"),
)
def test_image_without_a_benchmark_on_a_gpu_is_refused(now: list[Record]) -> None:
    assert reasons(now, [record()]) == ["no benchmark on a GPU is recorded for it"]


def test_first_release_needs_a_benchmark_only() -> None:
    assert reasons([record()], []) == []
    assert reasons([], []) == ["no benchmark on a GPU is recorded for it"]


def test_other_card_or_load_is_no_comparison() -> None:
    assert "ran on NVIDIA L40S with 16 at once" in reasons([record()], [record("NVIDIA L4")])[0]
    assert "NVIDIA L40S with 8" in reasons([record()], [record(at_once=8)])[0]


def test_release_notes_have_a_row_for_each_tested_card() -> None:
    rows = notes.performance(
        [record(audio_per_s=1.0), record(), record("NVIDIA L4"), record(kind="cpu")]
    )
    assert [(x["card"], x["audio_per_s"]) for x in rows] == [
        ("NVIDIA L40S", 15.9),
        ("NVIDIA L4", 15.9),
    ]
