"""The service of /generate, before a small speech server that records what reaches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.generate_service import GenerateRun

MakeRun = Callable[..., GenerateRun]


def started(folder: Path, server_key: str = "", **variables: str) -> GenerateRun:
    """Return the service with a small page, running."""
    (folder / "page").mkdir(parents=True)
    (folder / "page" / "index.html").write_text("<!doctype html><title>Higgs</title>")
    (folder / "page" / "app.js").write_text("'use strict';")
    (folder / "secret.txt").write_text("secret")
    return GenerateRun(folder, variables, server_key)


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[MakeRun]:
    """Return a function that starts the service with some variables."""
    running: list[GenerateRun] = []

    def make(server_key: str = "", **variables: str) -> GenerateRun:
        running.append(started(tmp_path / str(len(running)), server_key, **variables))
        return running[-1]

    yield make
    for run in running:
        run.close()


@pytest.fixture(scope="session")
def _run_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GenerateRun]:
    run = started(tmp_path_factory.mktemp("generate"))
    yield run
    run.close()


@pytest.fixture
def run(_run_for_all: GenerateRun) -> GenerateRun:
    """The service with its defaults, as if it had just started."""
    _run_for_all.reset()
    return _run_for_all


@pytest.fixture(scope="session")
def run_with_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GenerateRun]:
    """The service with an API key, for tests that leave nothing behind."""
    run = started(tmp_path_factory.mktemp("with-key"), HIGGS_API_KEY="secret-key")
    yield run
    run.close()
