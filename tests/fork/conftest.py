"""The real fork: its tests run where its source can be reached, or was fetched before.

`--without PATCH` runs the tests that are marked as needing that patch, against a trial image that
is built without it. They have to fail; `tests.fork.needed` does so for every patch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from higgs_image import lockfile
from higgs_image.build import pipeline, source
from higgs_image.build.overrides import Overrides
from higgs_image.demo import demo
from higgs_image.errors import HiggsError
from higgs_image.host import base_image
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.oci.container_spec import ContainerSpec
from higgs_image.oci.daemon import docker_client
from higgs_image.release import publish
from higgs_image.smoke import container as smoke_container
from higgs_image.smoke import cpu_device
from higgs_image.smoke.leftovers import owner_labels
from higgs_image.smoke.server import NotReadyError
from higgs_image.workspace import Workspace

NEEDED_GB = 30.0
"""Free disk for the real image: layers, layout, registry and the engine's unpacked copy."""

TRIAL_GB = 6.0
"""Free disk for a trial image: one layer differs, the rest is there."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option with which one sees tests fail without a patch."""
    parser.addoption(
        "--without",
        action="append",
        metavar="PATCH",
        help="build the real image without this patch, and run only the tests that need it; can "
        "be given several times",
    )
    parser.addoption(
        "--also-without",
        action="append",
        metavar="PATCH",
        help="leave this patch out, too: one that is written for the other",
    )
    parser.addoption(
        "--image",
        action="append",
        default=[],
        metavar="VARIANT=IMAGE",
        help="the engine's image of this variant, for the tests of compilation; without it they "
        "build it",
    )


def left_out(config: pytest.Config, option: str = "--without") -> list[str]:
    """Return the patches that this run leaves out."""
    names: list[str] | None = config.getoption(option, None)
    return names or []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the tests that need one of the patches that are left out."""
    if not (names := left_out(config)):
        return
    needs = {name for item in items for mark in item.iter_markers("needs") for name in mark.kwargs}
    if unknown := set(names) - needs:
        raise pytest.UsageError(f"no test needs {', '.join(sorted(unknown))}; {sorted(needs)}")
    kept = [
        item
        for item in items
        if any(name in mark.kwargs for mark in item.iter_markers("needs") for name in names)
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(scope="session")
def without(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The patches whose tests are to fail, and that the image of this run is built without."""
    return tuple(left_out(request.config))


@pytest.fixture(scope="session")
def workspace() -> Workspace:
    """The real image's workspace, with its source fetched; skipped where that is out of reach."""
    workspace = Workspace.default()
    try:
        source.ensure(workspace, lockfile.load(workspace.lock_file))
    except HiggsError as error:
        if not error.transient:
            raise
        pytest.skip(f"the fork's source cannot be reached: {error.message}")
    return workspace


@pytest.fixture(scope="session")
def registry(
    workspace: Workspace,
    machine: None,
    without: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalRegistry]:
    """A registry of the tests' own, where there is room for the real image."""
    try:
        needed = TRIAL_GB if without else NEEDED_GB
        workspace.require_disk(Path("/var/lib"), needed, "building the real image")
    except HiggsError as error:
        pytest.skip(error.message)
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running


VARIANT = "cuda12.8"


@contextlib.contextmanager
def built(
    workspace: Workspace, registry: LocalRegistry, without: tuple[str, ...], config: pytest.Config
) -> Iterator[pipeline.BuildReport]:
    """Build a real image, push it to the local registry, and load it into the engine.

    A trial image is not pushed; if it cannot be built the run ends, since that proves nothing.
    """
    base = base_image.publish(base_image.ensure(workspace), registry.address)
    request = pipeline.BuildRequest(
        workspace,
        "fork-test",
        compression="zstd",
        registry=None if without else registry.address,
        overrides=Overrides(
            base,
            demo.environment_ca(os.environ),
            without + tuple(left_out(config, "--also-without")),
        ),
    )
    try:
        done = publish.build_and_push(request)
    except HiggsError as error:
        if not without:
            raise
        pytest.exit(f"the trial image cannot be built: {error.message} ({error.hint})", 2)
    yield done
    if done.engine:
        subprocess.run(["docker", "image", "rm", done.engine], capture_output=True)


@pytest.fixture(scope="session")
def report(
    workspace: Workspace,
    registry: LocalRegistry,
    without: tuple[str, ...],
    pytestconfig: pytest.Config,
) -> Iterator[pipeline.BuildReport]:
    """The real image."""
    with built(workspace, registry, without, pytestconfig) as done:
        yield done


@pytest.fixture(scope="session")
def variant_report(
    workspace: Workspace,
    registry: LocalRegistry,
    without: tuple[str, ...],
    pytestconfig: pytest.Config,
) -> Iterator[pipeline.BuildReport]:
    """The real image of the variant."""
    place = dataclasses.replace(workspace, variant=VARIANT)
    with built(place, registry, without, pytestconfig) as done:
        yield done


@dataclass(frozen=True)
class Running:
    """The image's server on the CPU.

    Attributes:
        url: where it answers.
        container: the container that it runs in.
    """

    url: str
    container: smoke_container.ServerContainer

    def log(self) -> str:
        """Return all that the container has printed."""
        return self.container.container.logs().decode(errors="replace")


StartServer = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def weights(workspace: Workspace, report: pipeline.BuildReport) -> Path:
    """The tiny random weights, as a hub's cache."""
    assert report.engine
    with docker_client() as client:
        return cpu_device.weights(
            client, workspace, report.engine, lockfile.load(workspace.lock_file)
        )


def starter(workspace: Workspace, image: str, weights: Path) -> StartServer:
    """How to start an image on the CPU: flags, variables and mounts (folder to path)."""

    @contextlib.contextmanager
    def start(
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        mounts: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> Iterator[Running]:
        spec = ContainerSpec(
            image,
            environment=cpu_device.ENVIRONMENT | dict(env or {}),
            mounts=cpu_device.mounts(workspace, weights) | dict(mounts or {}),
            arguments=tuple(flags),
            labels=owner_labels(workspace.build, lifetime=24 * 3600),
        )
        with smoke_container.created(spec) as created:
            try:
                started, _ = smoke_container.start(created, timeout)
            except NotReadyError as error:
                if error.tail:  # the whole log, as the cause may be far above
                    print(created.get_wrapped_container().logs().decode(errors="replace"))
                raise
            yield Running(f"http://127.0.0.1:{started.client.port}", started)

    return start


@pytest.fixture(scope="session")
def start_server(workspace: Workspace, report: pipeline.BuildReport, weights: Path) -> StartServer:
    """How to start the real image on the CPU; see `starter`."""
    assert report.engine
    return starter(workspace, report.engine, weights)


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Iterator[Running]:
    """The real image on the CPU with its own defaults, shared by the tests that only ask it."""
    with start_server() as running:
        yield running
