"""./inv: makes the environment once, notices a changed lock, and recovers from an interruption.

A program in Python's place writes down how it is called, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from higgs_image.workspace import PROJECT

PYTHON = """\
#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
    *version_info*) exit "${TOO_OLD:-0}" ;;
    *ensurepip*) exit "${NO_VENV:-0}" ;;
    --version) echo "Python 3.x" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *"pip install"*) exit "${PIP_FAILS:-0}" ;;
    *invoke*) exit "${TASK_FAILS:-0}" ;;
esac
"""


class Sandbox:
    def __init__(self, root: Path) -> None:
        self.root = root / "a checkout"
        self.root.mkdir()
        shutil.copy2(PROJECT / "inv", self.root / "inv")
        (self.root / "requirements").mkdir()
        (self.root / "requirements/dev.txt").write_text("x==1\n")
        self.python = root / "fake-python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)
        self.log = root / "log"

    def run(
        self, *arguments: str, cwd: Path | None = None, **env: str
    ) -> tuple[int, list[str], str]:
        """Run ./inv; returns its exit status, the calls of Python, and standard error."""
        self.log.write_text("")
        done = subprocess.run(
            [self.root / "inv", *arguments],
            cwd=cwd or self.root,
            env=os.environ | {"PYTHON": str(self.python), "LOG": str(self.log)} | env,
            capture_output=True,
            text=True,
        )
        assert done.stdout == "", "standard output is the task's"
        return done.returncode, self.log.read_text().splitlines(), done.stderr


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def installs(calls: list[str]) -> list[str]:
    return [call for call in calls if "pip install" in call]


def test_first_run_makes_the_environment(sandbox: Sandbox) -> None:
    code, calls, err = sandbox.run("build", "--push", "a b")
    assert code == 0
    assert "once" in err
    [install] = installs(calls)
    assert install.startswith("python -m pip install")
    assert "--require-hashes" in install
    assert f"--requirement {sandbox.root}/requirements/dev.txt" in install
    assert calls[-1] == f"python -m invoke --search-root {sandbox.root} build --push a b"


def test_second_run_starts_at_once(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.run("--list")
    code, calls, err = sandbox.run("--list", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert calls == [f"python -m invoke --search-root {sandbox.root} --list"]


def test_exit_status_is_passed_on(sandbox: Sandbox) -> None:
    assert sandbox.run("build", TASK_FAILS="31")[0] == 31


def test_changed_lock_recreates_the_environment(sandbox: Sandbox) -> None:
    sandbox.run("--list")
    (sandbox.root / ".venv/old").touch()
    (sandbox.root / "requirements/dev.txt").write_text("x==2\n")
    assert len(installs(sandbox.run("--list")[1])) == 1
    assert not (sandbox.root / ".venv/old").exists()
    assert installs(sandbox.run("--list")[1]) == []


def test_interrupted_run_is_repaired(sandbox: Sandbox) -> None:
    code, calls, _ = sandbox.run("--list", PIP_FAILS="1")
    assert code != 0
    assert not [call for call in calls if "invoke" in call]
    code, calls, _ = sandbox.run("--list")
    assert code == 0
    assert len(installs(calls)) == 1


def test_broken_interpreter_recreates_the_environment(sandbox: Sandbox) -> None:
    """As after an upgrade of Debian: the interpreter that it links to is gone."""
    sandbox.run("--list")
    python = sandbox.root / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/no-such-place/python3.10")
    code, calls, _ = sandbox.run("--list")
    assert code == 0
    assert len(installs(calls)) == 1


@pytest.mark.parametrize(
    ("env", "part"),
    [
        ({"TOO_OLD": "1"}, "3.11 or later is needed"),
        ({"PYTHON": "no-such-python"}, "no no-such-python on PATH"),
    ],
)
def test_unsuitable_python_is_named(sandbox: Sandbox, env: dict[str, Any], part: str) -> None:
    code, _, err = sandbox.run("--list", **env)
    assert code == 21
    assert part in err


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user is told; root gets it installed")
def test_root_installs_python3_venv(sandbox: Sandbox, tmp_path: Path) -> None:
    """Debian keeps it apart; an apt-get in its place writes down what is asked for."""
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text('#!/bin/sh\necho "apt-get $*" >> "$LOG"\n')
    apt.chmod(0o755)
    path = f"{apt.parent}:{os.environ['PATH']}"
    code, calls, _ = sandbox.run("--list", NO_VENV="1", PATH=path)
    assert code == 0
    asked = [call for call in calls if call.startswith("apt-get")]
    assert asked[0] == "apt-get update -qq"
    assert asked[1].endswith("python3-venv")


def test_inv_is_posix_shell() -> None:
    subprocess.run(["sh", "-n", PROJECT / "inv"], check=True)
    assert (PROJECT / "inv").read_text().startswith("#!/bin/sh\n")


def test_line_endings_survive_a_clone_for_windows(tmp_path: Path) -> None:
    def git(*arguments: str, at: Path) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.invalid")
        subprocess.run(["git", *identity, *arguments], cwd=at, check=True, capture_output=True)

    origin = tmp_path / "origin"
    origin.mkdir()
    for name in (".gitattributes", "inv", "tasks.py"):
        shutil.copy2(PROJECT / name, origin / name)
    git("init", "--quiet", at=origin)
    git("add", ".", at=origin)
    git("commit", "--quiet", "--message", "x", at=origin)
    git("clone", "--quiet", "-c", "core.autocrlf=true", str(origin), "clone", at=tmp_path)
    for name in ("inv", "tasks.py"):
        assert b"\r" not in (tmp_path / "clone" / name).read_bytes()
