"""Every broken variant of the fake fork fails, by the checks meant for it and no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker import DockerClient

from higgs_image.smoke import report
from higgs_image.workspace import Workspace
from tests.broken import FAULTS, is_caught, variant
from tests.engine.smoke.conftest import Smoke, containers, failed

pytestmark = pytest.mark.engine


OPTIONS = {"slow-mp3": {"answer_timeout": 60.0}, "hangs": {"answer_timeout": 3.0}}
"""For a fault that is late, not hanging; and for one that makes every answer hang."""


@pytest.fixture(scope="module")
def breakable(image: str, client: DockerClient) -> Iterator[str]:
    """The image with every fault, one of which a container is told: a commit takes a second."""
    with variant(client, image, "none") as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_variant_is_caught(
    fault: str, breakable: str, smoke: Smoke, workspace: Workspace
) -> None:
    found = smoke(breakable, environment={"FAULT": fault}, **OPTIONS.get(fault, {}))
    assert found.verdict == "fail"
    assert containers(workspace) == []
    assert is_caught(fault, failed(found)), report.text(found)
    if fault in ("does-not-start", "dies-after-first"):
        assert {check.verdict for check in found.checks[-3:]} == {"inconclusive"}
    else:
        assert {"start", "health"}.isdisjoint(failed(found))
