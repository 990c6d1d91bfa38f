"""`invoke smoke`: what it hands on, prints, writes and ends with."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from higgs_image.smoke import record, report
from higgs_image.smoke import run as runs
from higgs_image.smoke.record import Check, Device, Image, Record, Verdict
from higgs_image.tasks.smoke import smoke


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 41)])
def test_exit_code_and_files(
    verdict: Verdict, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[runs.Options] = []
    checks = [Check("start", verdict, True)]
    done = Record(
        record.SCHEMA, verdict, record.overall(checks)[1], Image("x", None), Device("cpu", "C"),
        datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC), 1.0, checks,
    )  # fmt: skip

    def run(_: object, options: runs.Options) -> tuple[Record, Path]:
        asked.append(options)
        folder = tmp_path / "evidence"
        folder.mkdir()
        record.save(done, folder / "record.json")
        report.save(done, folder)
        return done, folder

    monkeypatch.setattr(runs, "run", run)
    with pytest.raises(SystemExit) as ended:
        smoke(
            Context(), image="i:t", device="cpu", only=["health"], keep=True, timeout=5.0,
            json=str(tmp_path / "out" / "r.json"), junit=str(tmp_path / "out" / "j.xml"),
        )  # fmt: skip
    assert ended.value.code == code
    assert asked == [runs.Options("i:t", "cpu", timeout=5.0, keep=True, only=frozenset({"health"}))]
    assert record.load(tmp_path / "out" / "r.json") == done
    assert (tmp_path / "out" / "j.xml").read_bytes().startswith(b"<?xml")
    out = capsys.readouterr().out
    assert f"verdict  {verdict}" in out and str(tmp_path / "evidence") in out
