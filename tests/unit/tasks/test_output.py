"""The command line: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import msgspec
import pytest
from invoke.config import Config
from invoke.context import Context

from higgs_image import errors
from higgs_image.tasks.output import fail, output, plain, setting
from higgs_image.tasks.values import VALUES
from higgs_image.workspace import PROJECT
from tests.unit.conftest import Project

CLASSES = [
    x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, errors.HiggsError)
]


# --- results


@dataclasses.dataclass
class Inner:
    path: Path
    number: int


class Struct(msgspec.Struct):
    name: str
    inner: Inner


def test_a_workflows_job_gets_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    with output() as out:
        out.result({}, "moved")
        out.result({}, "notes: x", "# Notes")
    with pytest.raises(SystemExit), output():
        raise errors.UsageError("no", "yes")
    assert summary.read_text() == ("```\nmoved\n```\n# Notes\n```\nerror: no\n  hint: yes\n```\n")
    assert capsys.readouterr().out == "moved\nnotes: x\n"


@pytest.mark.parametrize("path", ["", "no/such/folder/summary.md"])
def test_a_summary_that_cannot_be_written_is_no_failure(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The task has done its work: its result and its exit code stay what they are."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / path))
    with output() as out:
        out.result({}, "moved")
    printed = capsys.readouterr()
    assert printed.out == "moved\n" and "no summary is written" in printed.err
    with pytest.raises(SystemExit) as ended, output():
        raise errors.UsageError("no", "yes")
    assert ended.value.code == errors.UsageError.exit_code


def test_values_become_json(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "a": (Inner(Path("/x"), 1), None, True),
        "b": Struct("ü", Inner(Path("y"), 2)),
        "c": {},
    }
    with output(json=True) as out:
        out.result(value, "for a person")
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "ok": True,
        "a": [{"path": "/x", "number": 1}, None, True],
        "b": {"name": "ü", "inner": {"path": "y", "number": 2}},
        "c": {},
    }
    assert shown.err == ""


def test_text_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    with output() as out:
        out.result({"a": 1}, "the text")
        out.result({"a": 1}, "")
    assert capsys.readouterr().out == "the text\n"


def test_a_class_is_no_value() -> None:
    assert plain(Inner) is Inner


# --- errors


@pytest.mark.parametrize("kind", CLASSES)
def test_error_gives_its_exit_code_and_hint(
    kind: type[errors.HiggsError], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, output():
        raise kind("what failed", "what to do")
    assert ended.value.code == kind.exit_code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: what failed\n  hint: what to do\n"


def test_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, output(json=True):
        raise errors.RegistryUnavailableError("away", "wait")
    assert ended.value.code == 31
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "ok": False,
        "error": {
            "type": "RegistryUnavailableError",
            "message": "away",
            "hint": "wait",
            "exit_code": 31,
            "transient": True,
        },
    }


def test_every_error_has_an_exit_code_of_its_own() -> None:
    codes = {kind.exit_code: kind for kind in CLASSES}
    assert len(codes) == len(CLASSES)
    assert not {0, errors.INTERRUPTED, 126, 127} & set(codes)


def test_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, output():
        raise OSError(errno.ENOSPC, "No space left on device", "/build/x")
    assert ended.value.code == errors.DiskFullError.exit_code
    assert "/build/x" in capsys.readouterr().err


def test_inaccessible_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a checkout that is read-only, or below a file."""
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended, output():
        (tmp_path / "file" / "build").mkdir()
    assert ended.value.code == errors.FileAccessError.exit_code
    shown = capsys.readouterr().err
    assert f"{tmp_path}/file/build" in shown and "  hint: " in shown


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(OSError, match="bug"), output():
        raise OSError("bug")
    with pytest.raises(ValueError, match="bug"), output():
        raise ValueError("bug")


def test_an_error_without_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail(errors.HiggsError("x"), as_json=False)
    assert capsys.readouterr().err == "error: x\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, output(json=as_json):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    shown = capsys.readouterr()
    assert "interrupted" in shown.err
    if as_json:
        assert json.loads(shown.out)["error"]["exit_code"] == 130


# --- settings


def test_order_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(Config(overrides={"registry": "from-yaml"}))
    monkeypatch.delenv("REGISTRY", raising=False)
    assert setting(context, "registry") == "from-yaml"
    monkeypatch.setenv("REGISTRY", "from-env")
    assert setting(context, "registry") == "from-env"
    assert setting(context, "registry", "from-flag") == "from-flag"
    assert setting(context, "registry", "") == "from-env"
    assert setting(context, "unknown") == ""


def test_existing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ca.pem").touch()
    value = VALUES["extra_ca"]
    assert value.parse("ca.pem", "--extra-ca") == tmp_path / "ca.pem"
    for wrong in ("absent.pem", "."):
        with pytest.raises(errors.UsageError, match=r"--extra-ca: expected an existing file"):
            value.parse(wrong, "--extra-ca")


# --- through Invoke itself


def invoke(*arguments: str, cwd: Path = PROJECT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "invoke", "--search-root", PROJECT, *arguments],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )


def test_list_is_a_table_of_contents() -> None:
    done = invoke("--list")
    assert done.returncode == 0
    for task in ("build", "lock", "render", "source"):
        assert f"\n  {task}" in done.stdout
    for line in re.findall(r"^  \S.*", done.stdout, re.MULTILINE):
        assert re.fullmatch(r"  \S+(?: \(\S+\))? +[A-Z]\S* .*", line), f"no description: {line}"


def test_every_flag_has_help() -> None:
    """In a process of its own: Invoke gives a task's help away once."""
    script = (
        "from higgs_image.tasks import namespace\n"
        "for name, task in namespace.tasks.items():\n"
        "    for argument in task.get_arguments():\n"
        "        assert argument.help, f'{name} --{argument.name}'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_usage_error_through_invoke() -> None:
    done = invoke("build", "--push", "--dry-run", REGISTRY="not a registry")
    assert done.returncode == 2, done.stderr
    assert "error: REGISTRY: expected a registry" in done.stderr
    assert "got 'not a registry'" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_through_invoke_is_nothing_but_json(tmp_path: Path) -> None:
    done = invoke(
        "build", "--compression", "lzma", "--dry-run", "--json", cwd=tmp_path, HIGGS_DEBUG="1"
    )
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout)["error"]["type"] == "UsageError"


def checkout(root: Path) -> Path:
    """Return a copy of the project's files that tasks read."""
    project = root / "project"
    for name in ("docker", "higgs_image", "templates"):
        shutil.copytree(PROJECT / name, project / name)
    for name in ("invoke.yaml", "tasks.py", "versions.lock"):
        shutil.copy(PROJECT / name, project / name)
    return project


def read_only(project: Path) -> None:
    mounted = subprocess.run(["mount", "--bind", "-o", "ro", project, project], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("cannot mount a folder read-only")


def occupied(project: Path) -> None:
    (project / "build").touch()


@pytest.mark.parametrize("spoil", [read_only, occupied])
@pytest.mark.parametrize("words", [["source"], ["patches"]])
def test_unwritable_checkout_is_an_error_with_a_hint(
    words: list[str], spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    project = checkout(tmp_path)
    spoil(project)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", "--search-root", project, *words],
            cwd=project, capture_output=True, text=True,
        )  # fmt: skip
    finally:
        subprocess.run(["umount", project], capture_output=True)
    assert done.returncode == errors.FileAccessError.exit_code, done.stderr
    assert "error: " in done.stderr and "  hint: " in done.stderr
    assert "Traceback" not in done.stderr and str(project) in done.stderr


def test_ctrl_c_through_invoke(tmp_path: Path) -> None:
    """A task that waits for another run ends at once with 130, no traceback and no half result."""
    project = checkout(tmp_path)
    (project / "build").mkdir()
    with filelock.FileLock(project / "build" / ".source.lock"), subprocess.Popen(
        [sys.executable, "-m", "invoke", "--search-root", project, "source", "--json"],
        cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as task:  # fmt: skip
        assert task.stderr is not None
        first = task.stderr.readline()
        assert first == "waiting: another run is busy with source\n"
        task.send_signal(signal.SIGINT)
        out, err = task.communicate(timeout=10)
    assert task.returncode == 130
    assert "interrupted" in err and "Traceback" not in err
    assert json.loads(out)["ok"] is False
    assert not (project / "build" / "source").exists()


def test_lock_task_on_its_own_workspace(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`./inv lock --check`, then `./inv lock`, then `--check` again."""
    from higgs_image.tasks.lock import lock
    from higgs_image.workspace import Workspace

    monkeypatch.setattr(Workspace, "default", lambda: project.workspace)
    lock(Context(), check=True)
    assert "consistent" in capsys.readouterr().out
    project.load().file("requirements/input.txt").write_text("changed\n")
    with pytest.raises(SystemExit) as ended:
        lock(Context(), check=True)
    assert ended.value.code == 10
    assert "python.input_sha256" in capsys.readouterr().err
    lock(Context(), json=True)
    done = json.loads(capsys.readouterr().out)
    assert done["ok"]
    assert [change["key"] for change in done["changed"]] == ["python.input_sha256"]
    assert done["tag"] == project.load().tag
    lock(Context(), check=True)
