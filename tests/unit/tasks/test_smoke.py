"""`./inv smoke`: what it hands on, prints, writes and ends with."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from higgs_image.smoke import record, report, session
from higgs_image.smoke.record import CheckResult, Record, SmokeDevice, SmokeImage
from higgs_image.tasks import namespace
from higgs_image.tasks.command import CheckedProgram
from higgs_image.tasks.smoke import names_an_image, smoke
from higgs_image.verdict import Verdict
from higgs_image.workspace import PROJECT


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 41)])
def test_exit_code_and_files(
    verdict: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[session.SmokeOptions] = []
    names = record.REQUIRED["cpu"] - {"start"}
    checks = [
        CheckResult("start", Verdict(verdict), True),
        *(CheckResult(name, Verdict.PASS, True) for name in sorted(names)),
    ]
    done = Record(
        record.SCHEMA, Verdict(verdict), record.overall(checks)[1],
        SmokeImage("x", None), SmokeDevice("cpu", "C"),
        datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC), 1.0, checks,
    )  # fmt: skip

    def run(_: object, options: session.SmokeOptions) -> tuple[Record, Path]:
        asked.append(options)
        folder = tmp_path / "evidence"
        folder.mkdir()
        record.save(done, folder / "record.json")
        report.save(done, folder)
        return done, folder

    monkeypatch.setattr(session, "run", run)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    with pytest.raises(SystemExit) as ended:
        smoke(
            Context(), image="i:t", device="cpu", only=["health"], keep=True, timeout="5",
            json=str(tmp_path / "out" / "r.json"), junit=str(tmp_path / "out" / "j.xml"),
        )  # fmt: skip
    assert ended.value.code == code
    assert asked == [
        session.SmokeOptions("i:t", "cpu", timeout=5.0, keep=True, only=frozenset({"health"}))
    ]
    assert record.load(tmp_path / "out" / "r.json") == done
    assert (tmp_path / "out" / "j.xml").read_bytes().startswith(b"<?xml")
    assert f"## Smoke test: {verdict}\n" in (tmp_path / "summary.md").read_text()
    out = capsys.readouterr().out
    assert f"verdict  {verdict}" in out and str(tmp_path / "evidence") in out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("smoke", False),
        ("smoke i:t", True),
        ("smoke --device cpu", False),
        ("smoke --device cpu i:t", True),
        ("smoke --device=cpu i:t", True),
        ("smoke --keep i:t", True),
        ("smoke -k i:t --json f", True),
        ("smoke --json f --junit g --timeout 5 --keep", False),
        ("--search-root /x/smoke smoke --image i:t", False),
        ("build --push", False),
    ],
)
def test_an_image_without_a_flag_is_noticed(words: str, found: bool) -> None:
    assert names_an_image(["inv", *words.split()]) is found


@pytest.mark.parametrize(
    "words", ["smoke i:t --device tpu", "smoke --device tpu i:t", "smoke -d tpu -i i:t"]
)
def test_the_command_line(words: str) -> None:
    """Invoke itself takes the image; the device is refused before an engine is asked."""
    command = [sys.executable, "-m", "invoke", "--search-root", str(PROJECT), *words.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: --device: expected auto or gpu or cpu, got 'tpu'\n" in done.stderr


Refused = Callable[[str], str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that runs a command refused for its flags, and returns what it says."""

    def run(words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            CheckedProgram(namespace=namespace, name="inv").run(["inv", *words.split()])
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("value", ["abc", "-5", "nan", "inf", ""])
def test_a_timeout_that_is_none(value: str, refused: Refused) -> None:
    shown = refused(f"smoke --timeout={value}")
    assert f"error: --timeout: expected a number of seconds, got {value!r}\n" in shown


@pytest.mark.parametrize("flag", ["json", "junit"])
def test_a_file_that_cannot_be_written(flag: str, refused: Refused) -> None:
    assert f"error: --{flag} /proc/x cannot be written: " in refused(f"smoke --{flag} /proc/x")
    assert f"error: --{flag} / cannot be written: " in refused(f"smoke --{flag} /")


def test_no_earlier_runs_file_stays(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "r.json").write_text("pass")
    refused(f"smoke --json {tmp_path / 'r.json'} --only no-such-check")
    assert not (tmp_path / "r.json").exists()
