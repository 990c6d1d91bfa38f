"""Fixtures for tests with the fake RunPod."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from higgs_image import retry
from higgs_image.cloud.runpod import client
from higgs_image.cloud.runpod.client import RunPodClient
from tests.support.runpod.server import FakeRunPod


@pytest.fixture
def runpod(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRunPod]:
    """A fake RunPod that our client asks, with short waits between attempts."""
    monkeypatch.setattr(retry, "WAIT", 0.01)
    monkeypatch.setattr(client, "SECONDS", 5.0)
    with FakeRunPod() as fake:
        for name, value in fake.environment().items():
            monkeypatch.setenv(name, value)
        yield fake
        assert fake.violations == []


@pytest.fixture
def account(runpod: FakeRunPod) -> RunPodClient:
    """A client of the fake RunPod."""
    del runpod
    return client.from_environment()
