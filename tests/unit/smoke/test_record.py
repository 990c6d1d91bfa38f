"""The record of a smoke test: what it says of the whole, and how strictly it is read."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import msgspec
import pytest

from higgs_image.errors import UsageError
from higgs_image.smoke import checks as smoke_checks
from higgs_image.smoke import record
from higgs_image.smoke.record import CheckResult, Record, SmokeDevice, SmokeImage
from higgs_image.verdict import Verdict


def check(name: str, verdict: str, required: bool = True) -> CheckResult:
    return CheckResult(
        name, Verdict(verdict), required, reason="" if verdict == "pass" else "because"
    )


ALL = [check(name, "pass") for name in sorted(record.REQUIRED["gpu"])]


def made(*checks: CheckResult) -> Record:
    verdict, reason = record.overall(checks, record.REQUIRED["gpu"])
    return Record(
        schema=record.SCHEMA,
        verdict=verdict,
        reason=reason,
        image=SmokeImage("name@sha256:" + 64 * "a", "sha256:" + 64 * "a", "tag", 64 * "b"),
        device=SmokeDevice("gpu", "NVIDIA L40S", 1, "550.54.14"),
        started=datetime.datetime(2026, 11, 24, 12, 0, tzinfo=datetime.UTC),
        seconds=12.5,
        checks=list(checks),
    )


@pytest.mark.parametrize(
    ("checks", "verdict", "reason"),
    [
        ([check("a", "pass"), check("b", "pass")], "pass", ""),
        ([check("a", "pass"), check("b", "inconclusive", False)], "pass", ""),
        ([check("a", "pass"), check("b", "inconclusive")], "inconclusive", "b"),
        ([check("a", "inconclusive"), check("b", "fail")], "fail", "b"),
        ([check("a", "pass"), check("b", "fail", False)], "fail", "b"),
        ([check("a", "pass", False)], "inconclusive", "no required check"),
        ([], "inconclusive", "no required check"),
    ],
)
def test_verdict_over_all(checks: list[CheckResult], verdict: Verdict, reason: str) -> None:
    found = record.overall(checks)
    assert found[0] == verdict
    assert reason in found[1]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    wanted = made(
        *ALL,
        CheckResult(
            "words", Verdict.PASS, False, "", 1.5, {"word_errors": 0.0, "heard": "x"}, ["a.wav"]
        ),
    )
    record.save(wanted, tmp_path / "record.json")
    assert record.load(tmp_path / "record.json") == wanted
    assert record.load(tmp_path / "record.json").passed


def test_every_required_check_exists() -> None:
    for device in ("gpu", "cpu"):
        assert set(smoke_checks.NAMES) - record.REQUIRED[device] == {"words", "gpu-memory"}
        assert record.REQUIRED[device] <= set(smoke_checks.NAMES)


def test_an_absent_required_check_is_no_pass(tmp_path: Path) -> None:
    """Whether the record's own verdict admits it or not, such as that of an older version."""
    assert made(*ALL[1:]).verdict == "inconclusive"
    older = msgspec.structs.replace(made(*ALL), checks=ALL[1:])
    record.save(older, tmp_path / "record.json")
    found = record.load(tmp_path / "record.json")
    assert not found.passed
    assert found.reason == f"required, but not decided: {ALL[0].name}"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        record.load(tmp_path / "record.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "expected schema 1, got 2"),
        ({"verdict": "passed"}, "verdict"),
        ({"verdict": "pass"}, "says pass, its checks say fail"),
        ({"verdikt": "fail"}, "verdikt"),
        ({"image": {"reference": "x", "digest": "sha256:abc"}}, "image.digest"),
        ({"device": {"kind": "tpu", "name": "x"}}, "device.kind"),
        ({"seconds": -1}, "seconds"),
        ({"checks": []}, "says fail, its checks say inconclusive"),
    ],
)
def test_what_is_not_a_record_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "record.json"
    record.save(made(check("a", "fail")), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=message):
        record.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 1}', "null"])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        record.load(path)
