"""Weights from a hub on loopback, by the real client: which revision is asked for, what is said."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from higgs_patches.lib import weights_source

from tests.support.hub_server import Failure, Hub, Server

pytest.importorskip("huggingface_hub")

REPO, PINNED, NEWER = "owner/tokenizer", "a" * 40, "b" * 40
FILES = {"config.json": b"{}", "model.pth": b"weights" * 30_000, "README.md": b"long", "x.py": b""}

SCRIPT = """
import json, logging, sys
logging.basicConfig(format="%(levelname)s %(message)s", level="INFO", stream=sys.stderr)
from higgs_patches.lib.weights_source import Source, WeightsError
place, revision = json.loads(sys.argv[1])
try:
    found = Source("audio tokenizer", place, revision, "--flag").fetch(["config.json", "model.pth"])
    print(json.dumps([str(found), sorted(x.name for x in found.iterdir())]))
except WeightsError as error:
    print(json.dumps(str(error)))
"""


class Fetch:
    """Fetches in a process of its own: the client reads its settings when it is imported."""

    def __init__(self, url: str, home: Path) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(weights_source.__file__).parents[2]),
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
        }
        self.log = ""

    def __call__(self, place: str, revision: str | None, **environment: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps([place, revision])],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        self.log = done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()


@pytest.fixture
def hub(server: Server) -> Hub:
    server.hub.reset()
    server.hub.add(REPO, PINNED, FILES, branch="old")
    server.hub.add(REPO, NEWER, FILES | {"config.json": b"[]"})
    return server.hub


@pytest.fixture
def fetch(server: Server, tmp_path: Path) -> Fetch:
    return Fetch(server.url, tmp_path / "home")


def test_the_pinned_revision_is_fetched_and_nothing_but_the_files(hub: Hub, fetch: Fetch) -> None:
    folder, names = fetch(REPO, PINNED)
    assert folder.endswith(PINNED)
    assert names == ["config.json", "model.pth"]
    assert {path for _, path, _ in hub.asked if "README" in path or ".py" in path} == set()
    assert "not pinned" not in fetch.log


def test_what_is_in_the_cache_is_not_asked_for_again(hub: Hub, fetch: Fetch) -> None:
    first = fetch(REPO, PINNED)
    hub.asked.clear()
    assert fetch(REPO, PINNED) == first
    assert fetch(REPO, PINNED, HF_HUB_OFFLINE="1") == first
    assert not hub.asked


def test_a_cache_that_lacks_a_file_is_filled(hub: Hub, fetch: Fetch) -> None:
    folder, _ = fetch(REPO, PINNED)
    Path(folder, "model.pth").unlink()
    assert "has no model.pth" in fetch(REPO, PINNED, HF_HUB_OFFLINE="1")
    assert fetch(REPO, PINNED)[1] == ["config.json", "model.pth"]


def test_without_a_revision_the_log_says_that_it_is_not_pinned(hub: Hub, fetch: Fetch) -> None:
    folder, _ = fetch(REPO, None)
    assert folder.endswith(NEWER)
    [line] = [line for line in fetch.log.splitlines() if "not pinned" in line]
    assert line.startswith(f"WARNING The revision of the audio tokenizer {REPO} is not pinned")


def test_a_branch_may_be_named(hub: Hub, fetch: Fetch) -> None:
    assert fetch(REPO, "old")[0].endswith(PINNED)


@pytest.mark.parametrize(
    ("place", "revision", "said"),
    [
        ("nobody/nothing", None, "is not on the hub, or not for everybody (HTTP 401)"),
        ("internal_name", None, "is not on the hub, or not for everybody (HTTP "),
        (REPO, "none", "does not exist: its repository has no such revision"),
        ("a b/c", None, "is neither a directory here nor a repository's name"),
        (REPO, "f" * 40, "does not exist: its repository has no such revision"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    hub: Hub, fetch: Fetch, place: str, revision: str | None, said: str
) -> None:
    if place == "internal_name":  # what the fork's server asks for without a flag
        hub.failures.append(Failure("/api/models/internal_name", 401))
    error = fetch(place, revision)
    assert said in error
    assert error.startswith(f"the audio tokenizer {place}")
    assert "\n" not in error
    assert "--flag" in error
    assert "HF_TOKEN" in error


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_hub_that_fails_is_named(hub: Hub, fetch: Fetch, status: int) -> None:
    hub.failures.append(Failure("/api/", status))
    error = fetch(REPO, PINNED)
    assert str(status) in error
    assert "\n" not in error
    assert fetch.environment["HF_ENDPOINT"] in error


def test_a_repository_for_some_needs_a_token(hub: Hub, fetch: Fetch) -> None:
    hub.failures.append(Failure(REPO, 403, {"X-Error-Code": "GatedRepo"}))
    assert "(HTTP 403)" in fetch(REPO, PINNED)


def test_no_connection_and_nothing_in_the_cache(fetch: Fetch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    error = fetch(REPO, PINNED, HF_ENDPOINT=nowhere)
    assert "is not in the cache and cannot be fetched: " in error
    assert nowhere in error
    assert "\n" not in error


def test_offline_and_nothing_in_the_cache(hub: Hub, fetch: Fetch) -> None:
    error = fetch(REPO, PINNED, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids to fetch it" in error
    assert fetch.environment["HF_HOME"] in error
    assert not hub.asked


def test_a_repository_of_something_else_is_refused(hub: Hub, fetch: Fetch) -> None:
    hub.add("owner/other", PINNED, {"config.json": b"{}"})
    assert "has no model.pth" in fetch("owner/other", PINNED)
