"""`./inv test`: what it runs, and that one failing part fails the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from higgs_image.dev import lint
from higgs_image.errors import ChecksFailedError, UsageError

HERE = ["--numprocesses=0", "--basetemp=tmp"]
"""No workers: their start takes longer than all tests here. A folder of their own: one beside this
run's would take the place of an earlier run's."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one test suite, checked by one static check."""
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "tests" / "unit" / "test_it.py").write_text("def test_it():\n    pass\n")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.setattr(lint, "PROJECT", tmp_path)
    monkeypatch.setattr(lint, "_STATIC", (("ruff", "check", "--isolated", "."),))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_static_checks_and_tests_pass(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = lint.run(["unit"], HERE)
    assert set(done.commands.values()) == {0}
    assert any(x.startswith("pytest tests/unit ") for x in done.commands)
    assert "1 passed" in capfd.readouterr().out


def test_failing_static_check_is_shown_and_named(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (project / "code.py").write_text("import os\n")
    with pytest.raises(ChecksFailedError, match=r"failed: ruff check --isolated \.$"):
        lint.run(["unit"], HERE)
    shown = capfd.readouterr().out
    assert "1 passed" in shown and "F401" in shown


def test_failing_test_is_named(project: Path) -> None:
    (project / "tests/unit/test_it.py").write_text("def test_it():\n    assert False\n")
    with pytest.raises(ChecksFailedError, match="failed: pytest tests/unit"):
        lint.run(["unit"], HERE)


def test_a_selection_may_be_in_one_of_the_runs(project: Path) -> None:
    """The page's tests are a run of their own; `--match it` has none there."""
    (project / "tests" / "page").mkdir()
    (project / "tests" / "page" / "test_page.py").write_text("def test_other():\n    pass\n")
    done = lint.run(["unit", "page"], [*HERE, "-k", "test_it"])
    assert set(done.commands.values()) == {0}
    with pytest.raises(ChecksFailedError):
        lint.run(["unit", "page"], [*HERE, "-k", "nothing"])


def test_unknown_suite_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown suite: 'units'"):
        lint.run(["units"])
