"""The real fork: its tests run where its source can be reached, or was fetched before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from higgs_image import base_image, demo, lock, pipeline, source
from higgs_image.errors import HiggsError
from higgs_image.local_registry import LocalRegistry
from higgs_image.render import Overrides
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
