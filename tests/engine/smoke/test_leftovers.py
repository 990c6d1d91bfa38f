"""However a smoke test ends, its containers are removed, and no others."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.models.containers import ContainerCollection

from higgs_image.demo import fake_fork
from higgs_image.smoke import leftovers
from higgs_image.smoke.leftovers import owner_labels
from higgs_image.workspace import PROJECT, Workspace
from tests.broken import variant
from tests.engine.conftest import MakeFakeFork
from tests.engine.smoke.conftest import Smoke, containers

pytestmark = pytest.mark.engine

STUCK = """
import sys, time
from pathlib import Path
from typing import Any
from higgs_image.demo import fake_fork
from higgs_image.smoke import checks, runner, session
def stuck(context):
    print("up", flush=True)
    time.sleep(600)
runner.CHECKS = (checks.SmokeCheck("health", stuck),)
session.run(fake_fork.workspace_in(Path(sys.argv[1])), session.SmokeOptions(sys.argv[2], "cpu"))
"""


def start(script: str, folder: Path, image: str) -> subprocess.Popen[str]:
    """Start a script and wait until it says that it is up."""
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), image],
        cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout and child.stdout.readline().strip() == "up"
    return child


def test_the_container_of_a_killed_run_is_removed_by_the_next(
    tmp_path: Path, image: str, smoke: Smoke, workspace: Workspace
) -> None:
    other = fake_fork.workspace_in(tmp_path / "other")
    for place in (tmp_path, tmp_path / "other"):
        place.mkdir(exist_ok=True)
        with start(STUCK, place, image) as child:
            child.send_signal(signal.SIGKILL)
    (mine,), others = containers(workspace), containers(other)
    try:
        assert len(others) == 1 and mine != others[0]
        smoke(image, only=frozenset({"health"}))
        assert containers(workspace) == []
        assert containers(other) == others
    finally:
        subprocess.run(["docker", "rm", "--force", mine, *others], capture_output=True)


def left_by_another_machine(client: DockerClient, image: str, place: str, seconds: int) -> Any:
    """A container that a killed process of another machine left in another checkout."""
    labels = owner_labels(Path(place), lifetime=seconds)
    return client.containers.create(image, labels=labels | {leftovers.OWNER: "boot:pid:[1] 7 1"})


def test_an_expired_container_of_another_machine_is_removed(
    image: str, client: DockerClient, smoke: Smoke, workspace: Workspace
) -> None:
    """It would hold its GPU for ever: its process cannot be asked from here."""
    old = left_by_another_machine(client, image, "/elsewhere/build", 1)
    young = left_by_another_machine(client, image, str(workspace.build), 600)
    try:
        time.sleep(2)
        smoke(image, only=frozenset({"health"}))
        known = {x.id for x in client.containers.list(all=True, ignore_removed=True)}
        assert old.id not in known, "older than its lifetime"
        assert young.id in known, "perhaps still in use"
    finally:
        young.remove(force=True)


def test_what_this_process_had_before_stays(
    image: str, client: DockerClient, smoke: Smoke, workspace: Workspace
) -> None:
    mine = client.containers.create(image, labels=owner_labels(workspace.build, lifetime=60))
    try:
        smoke(image, only=frozenset({"health"}))
        assert containers(workspace) == [mine.id]
    finally:
        mine.remove(force=True)


def ended(child: subprocess.Popen[str], number: int, seconds: float) -> bool:
    """Whether a signal ends it in so many seconds, and not well."""
    child.send_signal(number)
    try:
        return child.wait(seconds) != 0
    except subprocess.TimeoutExpired:
        child.kill()
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(
    number: int, tmp_path: Path, image: str, workspace: Workspace
) -> None:
    with start(STUCK, tmp_path, image) as child:
        assert len(containers(workspace)) == 1
        assert ended(child, number, 20)
    assert containers(workspace) == []


WAITING = """
import sys
from pathlib import Path
from typing import Any
from higgs_image.demo import fake_fork
from higgs_image.smoke import session
from higgs_image.smoke.checks.model import ImageUnderTest
speak = ImageUnderTest.speak
def reported(*args, **more):
    print("up", flush=True)
    return speak(*args, **more)
ImageUnderTest.speak = reported
session.run(fake_fork.workspace_in(Path(sys.argv[1])), session.SmokeOptions(
    sys.argv[2], "cpu", only=frozenset({"at-once"})))
"""


def test_ctrl_c_waits_for_no_answer(
    tmp_path: Path, image: str, client: DockerClient, workspace: Workspace
) -> None:
    """Eight requests hang, each for as long as two minutes."""
    with (
        variant(client, image, "hangs") as hanging,
        start(WAITING, tmp_path, hanging) as child,
    ):
        time.sleep(1)
        assert ended(child, signal.SIGINT, 20)
        assert containers(workspace) == []


WEIGHTS = """
import sys
from pathlib import Path
from typing import Any
from higgs_image.demo import fake_fork
from higgs_image.smoke import cpu_device, session
from higgs_image.smoke import device as devices
folder = Path(sys.argv[1])
device = folder / "device" / "higgs_cpu"
device.mkdir(parents=True, exist_ok=True)
(device / "__init__.py").touch()
(device / "checkpoint.py").write_text("import time; time.sleep(600)")
cpu_device.package = lambda _: device.parent
devices.is_fake_fork = lambda _: False
create = cpu_device.make_weights
def created(*args):
    print("up", flush=True)
    create(*args)
cpu_device.make_weights = created
session.run(fake_fork.workspace_in(folder), session.SmokeOptions(sys.argv[2], "cpu"))
"""


@pytest.mark.parametrize("pause", [0.0, 1.0])
def test_ctrl_c_while_weights_are_made(
    pause: float, tmp_path: Path, image: str, make_fake_fork: MakeFakeFork, workspace: Workspace
) -> None:
    (tmp_path / "versions.lock").write_bytes(make_fake_fork("other").lock_file.read_bytes())
    with start(WEIGHTS, tmp_path, image) as child:
        time.sleep(pause)
        assert ended(child, signal.SIGINT, 20)
    assert containers(workspace) == []


def test_half_made_weights_of_a_killed_run_are_removed_by_the_next(
    tmp_path: Path, image: str, make_fake_fork: MakeFakeFork, workspace: Workspace
) -> None:
    (tmp_path / "versions.lock").write_bytes(make_fake_fork("other").lock_file.read_bytes())
    for number, left in ((signal.SIGKILL, 1), (signal.SIGINT, 0)):
        with start(WEIGHTS, tmp_path, image) as child:
            assert ended(child, number, 20)
        assert len(list((workspace.build / "cpu-weights").glob(".*.new-*"))) == left
        assert len(containers(workspace)) <= left


def test_ctrl_c_while_a_container_is_made(
    image: str, smoke: Smoke, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine has it already, but its name is not known here yet."""
    create = ContainerCollection.create

    def interrupted(*arguments: Any, **more: Any) -> None:
        create(*arguments, **more)
        assert len(containers(workspace)) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(ContainerCollection, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        smoke(image)
    assert containers(workspace) == []
