"""The smoke test on a GPU with the real weights: SMOKE_IMAGE, or the image that was built last."""

from __future__ import annotations

import os

import pytest

from higgs_image.errors import HiggsError
from higgs_image.oci.daemon import docker_client
from higgs_image.smoke import device, session
from higgs_image.smoke import image as smoke_image
from higgs_image.smoke.record import Record
from higgs_image.workspace import Workspace
from tests.support.smoke_checks import NAMES, expect

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def record(machine: None) -> Record:
    """The record of one smoke test; skipped where the engine has no GPU or no image."""
    workspace = Workspace.default()
    try:
        with docker_client() as client:
            if device.find_device(client) != "gpu":
                pytest.skip("the engine has no NVIDIA GPU to give to a container")
        image = os.environ.get("SMOKE_IMAGE") or smoke_image.last_built(workspace)
    except HiggsError as error:
        pytest.skip(f"{error.message} ({error.hint})")
    return session.run(workspace, session.SmokeOptions(image, "gpu"))[0]


@pytest.mark.parametrize("name", NAMES)
def test_check(name: str, record: Record) -> None:
    expect(record, name)
