"""What the engine tests share: the machine, a registry, a base image, and fake forks to build."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from higgs_image.build.overrides import Overrides
from higgs_image.demo import demo, fake_fork
from higgs_image.host import base_image, facts
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.workspace import Workspace


def forget_images(prefix: str) -> None:
    """Remove images whose names begin so from the engine."""
    for _ in range(5):
        listed = subprocess.run(
            ["docker", "images", "--digests", "--format", "{{.Repository}}@{{.Digest}}"],
            capture_output=True, text=True,
        )  # fmt: skip
        if listed.returncode == 0:  # it fails when another worker removes an image meanwhile
            break
    names = [name for name in listed.stdout.split() if name.startswith(f"{prefix}/")]
    if names:
        subprocess.run(["docker", "image", "rm", *names], capture_output=True)


MakeFakeFork = Callable[..., Workspace]


class ForkMaker:
    """Makes fake forks whose layouts already have the large layers of earlier builds.

    They are the same in each fork. BuildKit hands over only what a layout lacks: that spares a
    build a second of processor time and 90 MB on the disk.
    """

    def __init__(self, shared: Path) -> None:
        self._shared = shared
        self._made: list[Path] = []
        shared.mkdir(exist_ok=True)

    def make(self, folder: Path, base: str, changes: dict[str, str] | None = None) -> Workspace:
        """Make a fake fork below a folder."""
        for blobs in filter(Path.is_dir, self._made):
            _link(blobs, self._shared)
        made = fake_fork.make(folder, base, changes=changes)
        blobs = made.layout("gzip") / "blobs" / "sha256"
        _link(self._shared, blobs)
        self._made.append(blobs)
        return made


def _link(source: Path, target: Path) -> None:
    """Give a folder the large files of another one."""
    for path in source.iterdir():
        if path.stat().st_size > 5_000_000:
            target.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                (target / path.name).hardlink_to(path)


@pytest.fixture(scope="session", autouse=True)
def _machine(machine: facts.Machine) -> None:
    """Every test here needs the engine."""


@pytest.fixture(scope="session")
def registry_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """One registry without a login for this worker."""
    with LocalRegistry(tmp_path_factory.mktemp("registry-for-all")) as running:
        yield running
        forget_images(running.address)


@pytest.fixture(scope="session")
def base(mmdebstrap: None, registry_for_all: LocalRegistry) -> str:
    """A base image, `name@sha256:...`; made once per checkout, in half a minute."""
    made = base_image.ensure(Workspace.default(), fake_fork.PYTHON)
    return base_image.publish(made, registry_for_all.address)


@pytest.fixture(scope="session")
def overrides() -> Overrides:
    """The overrides that a build needs on this machine's network."""
    return Overrides(extra_ca=demo.environment_ca(os.environ))


@pytest.fixture(scope="session")
def fork_maker(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> ForkMaker:
    """Makes fake forks; the workers share the layers."""
    temporary = tmp_path_factory.getbasetemp()
    return ForkMaker((temporary if worker_id == "master" else temporary.parent) / "layers")


@pytest.fixture
def make_fake_fork(tmp_path: Path, base: str, fork_maker: ForkMaker) -> MakeFakeFork:
    """Return a function that makes a fake fork on the base image: `make_fake_fork("name")`.

    `changes` are further files in the fork's commit.
    """

    def make(name: str = "fake-fork", changes: dict[str, str] | None = None) -> Workspace:
        return fork_maker.make(tmp_path / name, base, changes)

    return make


@pytest.fixture
def some_ca(tmp_path: Path, overrides: Overrides) -> Path:
    """CA certificates that work here, in an unusual file."""
    known = overrides.extra_ca or Path(ssl.get_default_verify_paths().cafile or "")
    if not known.is_file():
        pytest.skip("this machine has no CA bundle")
    path = tmp_path / "ca.pem"
    path.write_bytes(known.read_bytes() + b"\n# CA of this test\n")
    return path


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Remove the handler that tasks add to the package's logger."""
    logger = logging.getLogger("higgs_image")
    logger.setLevel(logging.INFO)
    yield
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
