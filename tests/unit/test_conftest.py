"""What tests/conftest.py does for every suite, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest

from higgs_image.workspace import PROJECT
from tests.support import schedule


def pytest_on(folder: Path, source: str, *arguments: str, **env: str) -> str:
    """Run pytest with the conftest in a folder with one test file, and return its output."""
    (folder / "test_it.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider",
         "--rootdir", folder, *(arguments or ["test_it.py"])], cwd=folder,
        env=os.environ | {"PYTEST_ADDOPTS": "", "PYTHONPATH": str(PROJECT),
                          "PYTEST_DEBUG_TEMPROOT": str(folder)} | env,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def test_each_skip_reason_has_one_line(tmp_path: Path) -> None:
    source = """
import pytest

@pytest.fixture
def engine():
    pytest.skip("needs an engine")

@pytest.mark.parametrize("number", range(30))
def test_engine(engine, number):
    pass

@pytest.mark.skipif(True, reason="needs a GPU")
def test_gpu():
    pass
"""
    shown = pytest_on(tmp_path, source)
    assert "   30  needs an engine\n    1  needs a GPU\n31 skipped" in shown
    assert shown.count("needs an engine") == 1


def test_a_machines_own_settings_do_not_matter(tmp_path: Path) -> None:
    """Not its umask, locale, proxies, variables of this project, or another ffmpeg on PATH."""
    other = tmp_path / "bin" / "ffmpeg"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    expected = os.path.realpath(imageio_ffmpeg.get_ffmpeg_exe())
    source = f"""
import os, shutil

def test_environment(ffmpeg_on_path):
    assert "REGISTRY" not in os.environ and os.environ["LC_ALL"] == "C.UTF-8"
    assert "127.0.0.1" in os.environ["no_proxy"].split(",")
    assert os.umask(0) == 0o022
    assert os.path.realpath(shutil.which("ffmpeg")) == {expected!r}
"""
    umask = os.umask(0o077)
    try:
        shown = pytest_on(
            tmp_path, source, REGISTRY="ghcr.io/x", LC_ALL="C", no_proxy="a.example",
            PATH=f"{other.parent}:{os.environ['PATH']}",
        )  # fmt: skip
    finally:
        os.umask(umask)
    assert "1 passed" in shown, shown


def test_a_group_is_run_by_one_worker_and_starts_first(tmp_path: Path) -> None:
    log = tmp_path / "log"
    source = f"""
import os, pytest

@pytest.mark.parametrize("number", range(5))
def test_it(number):
    with open({str(log)!r}, "a") as file:
        print(__name__, os.environ["PYTEST_XDIST_WORKER"], file=file)
"""
    for name in ("tests/a/test_short.py", "tests/fork/test_one.py", "tests/gpu/test_other.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(source)
    shown = pytest_on(tmp_path, "", "--numprocesses=2", "--dist=loadscope", "tests")
    assert "15 passed" in shown, shown
    ran = [line.split() for line in log.read_text().splitlines()]
    [worker] = {by for name, by in ran if name != "test_short"}
    assert next(name for name, by in ran if by == worker) == "test_one"


@pytest.mark.parametrize("start", [*schedule.TOGETHER, *schedule.FIRST])
def test_the_schedule_names_tests_that_exist(start: str) -> None:
    assert list(PROJECT.glob(f"{start}*"))


@pytest.mark.parametrize("number", range(2))
def test_each_test_has_an_empty_home_of_its_own(number: int) -> None:
    assert list(Path.home().iterdir()) == [], "of the person, or of another test"
    (Path.home() / ".gitconfig").touch()
