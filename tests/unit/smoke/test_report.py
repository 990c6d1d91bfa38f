"""A record as a person and a CI system read it, and the identity of image and device."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as xml

import msgspec
import pytest

from higgs_image.errors import UsageError
from higgs_image.smoke import device, image, record, report, session, transcript
from higgs_image.smoke.record import CheckResult, Record, SmokeDevice, SmokeImage
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace

A, B = "sha256:" + 64 * "a", "sha256:" + 64 * "b"


STARTED = CheckResult("start", Verdict.PASS, True, "", 20.0, {"health_s": 20.0})
SILENT = CheckResult("speech-wav", Verdict.FAIL, True, "it has | and <b> and\x00\nmore", 1.25)
OPEN = CheckResult("sound", Verdict.INCONCLUSIVE, False, "random weights", 0.0)


def made(*checks: CheckResult) -> Record:
    checks = checks or (STARTED, SILENT, OPEN)
    verdict, reason = record.overall(checks)
    return Record(
        record.SCHEMA, verdict, reason, SmokeImage("x:y", A),
        SmokeDevice("gpu", "NVIDIA L40S", 2, "550.54"),
        datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC), 30.0, list(checks),
    )  # fmt: skip


def test_text() -> None:
    lines = report.text(made()).splitlines()
    assert lines[0].split() == ["pass", "start", "20.0", "s", "health_s", "20.0"]
    assert [line.split()[0] for line in lines[1:3]] == ["FAIL", "?"]
    assert lines[-1] == "verdict  fail: failed: speech-wav"
    assert "gpu: 2 x NVIDIA L40S, driver 550.54" in "\n".join(lines)
    assert not any(line.startswith("open ") for line in lines)
    assert "it has | and <b> and more" in " ".join(lines[1].replace("\0", " ").split())


def test_a_kept_container_is_named() -> None:
    assert "kept " not in report.text(made())
    kept = msgspec.structs.replace(made(), container={"id": 64 * "e", "kept": True})
    assert f"docker rm --force {12 * 'e'}\n" in report.text(kept)


def test_markdown() -> None:
    text = report.markdown(made())
    assert "## Smoke test: fail" in text
    assert "| FAIL | speech-wav | 1.2 | it has \\| and &lt;b> and  more |" in text
    assert "| ? | sound (optional) | 0.0 | random weights |" in text
    assert "Not decided" not in text and "<details>" not in text


def test_a_pass_says_what_it_leaves_open() -> None:
    assert "open     sound\n" in report.text(made(STARTED, OPEN))
    assert "\nNot decided on a gpu: sound\n" in report.markdown(made(STARTED, OPEN))
    assert "open " not in report.text(made(STARTED))


def test_the_reports_files(tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(100)]
    log = "\n".join([*lines, "</pre><b>\x1b[2J", 5000 * "x"]).encode() + b"\nnot \xff UTF-8\n"
    (tmp_path / report.LOG).write_bytes(log)
    report.save(made(), tmp_path)
    text = (tmp_path / "report.md").read_text()
    shown = text.partition("<pre>\n")[2].partition("\n</pre>")[0].splitlines()
    assert len(shown) == report.TAIL and max(map(len, shown)) == report.LONGEST
    assert shown[-1] == "not \N{REPLACEMENT CHARACTER} UTF-8"
    assert shown[-3] == "&lt;/pre>&lt;b> [2J" and shown[-4] == "line 99"
    assert xml.parse(tmp_path / "junit.xml").getroot().get("failures") == "1"


def test_junit() -> None:
    suite = xml.fromstring(report.junit(made()))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    cases = {case.get("name"): case for case in suite}
    assert cases["start"].findtext("system-out") == "health_s 20.0"
    assert cases["speech-wav"].find("failure") is not None
    assert cases["sound"].find("skipped") is not None


@pytest.mark.parametrize(
    ("reference", "identity", "known", "digest"),
    [
        ("r/i@" + A, B, [], A),
        ("r/i:tag", A, ["r/i@" + A], A),  # the containerd store
        ("r/i:tag", B, ["r/i@" + A], A),  # the classic store, pulled
        ("i:tag", B, [], None),  # the classic store, loaded
        (A, A, ["i@" + A], A),
        (B, B, ["r/i@" + A], A),  # the id of a classic store is not a digest
    ],
)
def test_digest_of_an_image(
    reference: str, identity: str, known: list[str], digest: str | None
) -> None:
    assert image.registry_digest(reference, identity, known) == digest


@pytest.mark.parametrize(
    ("info", "hook", "kind"),
    [
        ({"Runtimes": {"runc": {}}}, False, "cpu"),
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, False, "gpu"),
        ({"Runtimes": {"runc": {}}}, True, "gpu"),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, False, "gpu"),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "vendor.com/net=0"}]}, False, "cpu"),
    ],
)
def test_the_device_of_an_engine(
    info: dict[str, Any], hook: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if hook:
        (tmp_path / device.HOOK).touch(0o755)
    engine: Any = SimpleNamespace(info=lambda: info)
    assert device.find_device(engine) == kind


def test_no_image_was_built(tmp_path: Path) -> None:
    workspace = replace(Workspace.default(), build=tmp_path)
    with pytest.raises(UsageError, match="no image was built yet"):
        image.last_built(workspace)


def test_an_unknown_check(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path / "lock", tmp_path / "layers")
    with pytest.raises(UsageError, match="unknown check: helth"):
        session.run(workspace, session.SmokeOptions(only=frozenset({"helth"})))


@pytest.mark.parametrize(
    ("heard", "errors"),
    [
        ("The image starts, answers and SPEAKS.", 0),
        ("The image starts answers and", 1 / 5),
        ("the the image starts answers and speaks", 1 / 5),
        ("no", 1),
        ("", 1),
    ],
)
def test_word_error_rate(heard: str, errors: float) -> None:
    wanted = "The image starts, answers, and speaks."
    assert transcript.word_error_rate(wanted, heard) == pytest.approx(errors, abs=0.05)
