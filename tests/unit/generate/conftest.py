"""The service of /generate, before a small speech server that records what reaches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.generate_service import GenerateRun

MakeRun = Callable[..., GenerateRun]


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[MakeRun]:
    """Return a function that starts the service with some variables."""
    running: list[GenerateRun] = []

    def make(server_key: str = "", **variables: str) -> GenerateRun:
        folder = tmp_path / str(len(running))
        (folder / "page").mkdir(parents=True)
        (folder / "page" / "index.html").write_text("<!doctype html><title>Higgs</title>")
        (folder / "page" / "app.js").write_text("'use strict';")
        (folder / "secret.txt").write_text("secret")
        running.append(GenerateRun(folder, variables, server_key))
        return running[-1]

    yield make
    for run in running:
        run.close()


@pytest.fixture
def run(make_run: MakeRun) -> GenerateRun:
    """The service with its defaults."""
    return make_run()
