"""The real fork: its tests run where its source can be reached, or was fetched before."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from higgs_image import base_image, demo, lock, pipeline, source
from higgs_image.errors import HiggsError
from higgs_image.local_registry import LocalRegistry
from higgs_image.render import Overrides
from higgs_image.smoke import container, cpu
from higgs_image.smoke import run as smoke
from higgs_image.workspace import Workspace

NEEDED_GB = 30.0
"""Free disk for the real image: layers, layout, registry and the engine's unpacked copy."""


@pytest.fixture(scope="session")
def workspace() -> Workspace:
    """The real image's workspace, with its source fetched; skipped where that is out of reach."""
    workspace = Workspace.default()
    try:
        source.ensure(workspace, lock.load(workspace.lock_file))
    except HiggsError as error:
        if not error.transient:
            raise
        pytest.skip(f"the fork's source cannot be reached: {error.message}")
    return workspace


@pytest.fixture(scope="session")
def registry(
    workspace: Workspace, machine: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalRegistry]:
    """A registry of the tests' own, where there is room for the real image."""
    try:
        workspace.require_disk(Path("/var/lib"), NEEDED_GB, "building the real image")
    except HiggsError as error:
        pytest.skip(error.message)
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def report(workspace: Workspace, registry: LocalRegistry) -> Iterator[pipeline.Report]:
    """The real image: built, pushed to the local registry, and loaded into the engine."""
    base = base_image.publish(base_image.ensure(workspace), registry.address)
    done = pipeline.run(
        pipeline.Request(
            workspace,
            "fork-test",
            compression="zstd",
            registry=registry.address,
            overrides=Overrides(base_image=base, extra_ca=demo.environment_ca(os.environ)),
        )
    )
    yield done
    if done.engine:
        subprocess.run(["docker", "image", "rm", done.engine], capture_output=True)


@dataclass(frozen=True)
class Running:
    """The image's server on the CPU.

    Attributes:
        url: where it answers.
        container: the container that it runs in.
    """

    url: str
    container: container.Server


StartServer = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def start_server(workspace: Workspace, report: pipeline.Report) -> StartServer:
    """How to start the real image on the CPU: flags, variables and mounts (folder to path)."""
    image = report.engine
    assert image

    @contextlib.contextmanager
    def start(
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        mounts: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> Iterator[Running]:
        with smoke.engine() as (client, host):
            locked = lock.load(workspace.lock_file)
            weights = cpu.weights(client, workspace, image, locked)
            setup = container.Setup(
                image,
                workspace.build,
                environment=cpu.ENVIRONMENT | dict(env or {}),
                mounts={str(cpu.package(workspace)): cpu.DEVICE, str(weights): cpu.WEIGHTS}
                | dict(mounts or {}),
                arguments=list(flags),
            )
            with container.created(setup, host) as created:
                started, _ = container.start(created, timeout)
                yield Running(f"http://127.0.0.1:{started.client.port}", started)

    return start


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Iterator[Running]:
    """The real image on the CPU with its own defaults, shared by the tests that only ask it."""
    with start_server() as running:
        yield running
