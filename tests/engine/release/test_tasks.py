"""What the workflows run, in a fresh clone, on the fake fork and a local registry."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from higgs_image.build.overrides import Overrides
from higgs_image.demo import fake_fork
from higgs_image.errors import (
    ReleaseRefusedError,
    UsageError,
    VerificationError,
)
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.oci import reference
from higgs_image.oci.artifacts import open_repository
from higgs_image.workspace import PROJECT

from ..conftest import forget_images

pytestmark = pytest.mark.engine

NAME = "higgs-audio-vllm"


def fresh_clone(goal: Path) -> Path:
    """Clone the project as it is here; what is not committed yet is committed in the clone."""

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(goal), "-c", "user.name=Tester",
                        "-c", "user.email=tester@example.org", *arguments],
                       check=True, capture_output=True)  # fmt: skip

    listed = subprocess.run(
        ["git", "-C", str(PROJECT), "ls-files", "-z", "--cached", "--others",
         "--exclude-standard"], check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (goal / name).parent.mkdir(parents=True, exist_ok=True)
            (goal / name).write_bytes((PROJECT / name).read_bytes())
            (goal / name).chmod((PROJECT / name).stat().st_mode)
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "as it is")
    return goal


@dataclass
class Clone:
    """A fresh clone, the fake fork, and what a workflow's environment says.

    Attributes:
        root: the clone.
        environment: of every command.
    """

    root: Path
    environment: dict[str, str]

    def run(self, command: str, **inputs: str) -> subprocess.CompletedProcess[str]:
        """Run one step: `./inv TASK ...`, with the inputs as its environment."""
        assert command.startswith("./inv ")
        line = f"exec {shlex.quote(sys.executable)} -m invoke {command.removeprefix('./inv ')}"
        return subprocess.run(
            ["sh", "-c", line], cwd=self.root, capture_output=True, text=True,
            env={k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")}
            | self.environment | inputs,
        )  # fmt: skip

    def json(self, command: str, **inputs: str) -> dict[str, Any]:
        done = self.run(f"{command} --json", **inputs)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def step(workflow: str, job: str | None = None) -> str:
    """The command of a workflow's step that does its work: the last one that runs a task."""
    path = PROJECT / ".github" / "workflows" / f"{workflow}.yml"
    jobs = yaml.safe_load(path.read_text())["jobs"]
    steps = jobs[job or next(iter(jobs))]["steps"]
    commands = [x["run"] for x in steps if "run" in x and "free-disk" not in x["run"]]
    return str(commands[-1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running
        forget_images(running.address)


@pytest.fixture(scope="module")
def clone(
    tmp_path_factory: pytest.TempPathFactory, base: str, overrides: Overrides,
    served: LocalRegistry,
) -> Clone:  # fmt: skip
    root = fresh_clone(tmp_path_factory.mktemp("clone"))
    folder = tmp_path_factory.mktemp("fake-fork")
    fake_fork.make(folder, base, root=root)
    environment = {"HIGGS_FAKE_FORK": str(folder), "REGISTRY": served.address}
    if overrides.extra_ca:
        environment["EXTRA_CA"] = str(overrides.extra_ca)
    return Clone(root, environment)


def custom(clone: Clone) -> str | None:
    name = reference.repository(clone.environment["REGISTRY"], NAME)
    with open_repository(name) as repository:
        return repository.digest("custom")


REHEARSAL = " --rehearsal --device-class=cpu"


def test_the_workflows_from_build_to_cleanup(clone: Clone, base: str) -> None:
    built = clone.json(step("build"))
    first = built["digest"]
    assert built["smoke"] == {"device_type": "cpu", "verdict": "pass"} and built["moved"] is None
    assert custom(clone) is None

    # A fake fork without a test on a GPU is refused; in a rehearsal the CPU is enough.
    refused = clone.run(step("promote"), DIGEST=first, REASON="")
    assert refused.returncode == ReleaseRefusedError.exit_code, refused.stderr
    assert "no smoke test on a gpu" in refused.stderr and "fake fork" in refused.stderr
    assert custom(clone) is None
    rehearsed = step("promote").replace("=gpu", "=cpu") + " --rehearsal"
    planned = clone.run(rehearsed + " --dry-run", DIGEST=first, REASON="try")
    assert planned.returncode == 0 and first in planned.stdout and custom(clone) is None
    clone.json(rehearsed, DIGEST=first, REASON="try")
    assert custom(clone) == first

    # Another lock, another image.
    changes = {"vllm/second.py": "second = 2\n"}
    folder = Path(clone.environment["HIGGS_FAKE_FORK"])
    fake_fork.make(folder, base, changes=changes, root=clone.root)
    second = clone.json(step("build"))["digest"]
    assert second != first
    moved = clone.json("./inv release" + REHEARSAL)
    assert moved["digest"] == second == custom(clone) and moved["moved"]["previous"] == first
    assert clone.json("./inv release" + REHEARSAL)["moved"]["skipped"]
    notes = Path(moved["notes"]).read_text()
    assert f"docker pull {clone.environment['REGISTRY']}/{NAME}@{second}" in notes

    inputs = {"REASON": "it hums", "TO": "", "MOVING": "custom"}
    dry = clone.run(step("rollback").replace(" --yes", ""), **inputs)
    assert dry.returncode == 0 and "apply it with --yes" in dry.stdout and custom(clone) == second
    assert clone.run(step("rollback"), **(inputs | {"REASON": ""})).returncode == (
        UsageError.exit_code
    )
    back = clone.json(step("rollback"), **inputs)
    assert back["moved"]["digest"] == first == custom(clone)
    assert second in back["moved"]["undo"]

    found = clone.json("./inv history")["entries"]
    assert [x["record"]["event"] for x in found] == [
        "push", "smoke", "promote", "push", "smoke", "promote", "rollback",
    ]  # fmt: skip
    assert found[-1]["record"]["reason"] == "it hums"
    assert "rolls back custom" in clone.run("./inv history").stdout

    plan = clone.json(step("cleanup", "plan"))
    assert plan["plan"]["delete"] == [] and plan["deleted"] == []
    assert clone.json(step("cleanup", "delete"))["deleted"] == []


def test_the_same_lock_in_another_clone_gives_the_same_digest(clone: Clone, tmp_path: Path) -> None:
    """Another clone, an empty build folder, no cache: the digest is the released one."""
    released = clone.json(step("build"))["digest"]
    other = Clone(fresh_clone(tmp_path / "other"), clone.environment | {"HIGGS_FAKE_FORK": ""})
    folder = Path(clone.environment["HIGGS_FAKE_FORK"])
    again = tmp_path / "fake-fork"
    # Its lock names repositories by their folder, so they stay where they are.
    again.mkdir()
    for name in ("versions.lock", "layers.toml", "requirements.in", "requirements.txt",
                 "build.txt", "installer.txt"):  # fmt: skip
        (again / name).write_bytes((folder / name).read_bytes())
    (again / "wheels").symlink_to(folder / "wheels")
    other.environment["HIGGS_FAKE_FORK"] = str(again)
    done = other.run(f"./inv verify {released} --rebuild --device-class=cpu --json")
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["rebuild"]["image"] == found["rebuild"]["rebuilt"] == released, done.stderr
    # Behind a proxy or on another base it is not what the lock alone gives: reported as well.
    pins = next(x for x in found["verification"]["findings"] if x["check"] == "pins")
    wrong = clone.environment.get("EXTRA_CA") is not None
    assert (pins["verdict"] == "fail") == wrong
    assert done.returncode == (VerificationError.exit_code if wrong else 0)


def test_a_dirty_clone_releases_nothing(clone: Clone) -> None:
    stray = clone.root / "stray.py"
    stray.write_text("x = 1\n")
    try:
        done = clone.run("./inv release" + REHEARSAL)
    finally:
        stray.unlink()
    assert done.returncode == ReleaseRefusedError.exit_code
    assert "stray.py" in done.stderr


def test_without_a_gpu_no_verdict_is_a_pass(clone: Clone) -> None:
    digest = clone.json(step("build"))["digest"]
    done = clone.run("./inv smoke-pushed " + digest + " --device-class=gpu --json")
    if json.loads(done.stdout).get("entry", {}).get("record", {}).get("verdict") == "pass":
        pytest.skip("this machine has a GPU")
    assert done.returncode != 0
    refused = clone.run(step("promote"), DIGEST=digest, REASON="")
    assert refused.returncode == ReleaseRefusedError.exit_code
