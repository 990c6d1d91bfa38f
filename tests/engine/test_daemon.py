"""Which engine is asked: the one that the docker command asks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from higgs_image.oci import daemon

pytestmark = pytest.mark.engine

OTHER = "tcp://127.0.0.1:1"


def test_the_context_of_docker_names_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def context(*arguments: str) -> None:
        subprocess.run(["docker", "context", *arguments], check=True, capture_output=True)

    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert daemon.docker_environment()["DOCKER_HOST"] != OTHER
    context("create", "other", "--docker", f"host={OTHER}")
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    assert daemon.docker_environment()["DOCKER_HOST"] == OTHER
    monkeypatch.delenv("DOCKER_CONTEXT")
    monkeypatch.setenv("DOCKER_CONFIG", f"{tmp_path}/")  # this one has not been asked for
    context("use", "other")
    assert daemon.docker_environment()["DOCKER_HOST"] == OTHER
