"""A pull request with newer pins: a real git remote, and a fake of GitHub's API."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from higgs_image.errors import NetworkError, RegistryAuthError, UsageError
from higgs_image.github import pull_request
from higgs_image.workspace import PROJECT
from tests.unit.conftest import git

FORBIDDEN = "GitHub Actions is not permitted to create or approve pull requests."


class Api:
    """Lists, opens and changes pull requests."""

    def __init__(self) -> None:
        self.open: list[dict[str, Any]] = []
        self.started: list[tuple[str, Any]] = []
        self.forbidden = False
        api = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def answer(self, body: object) -> None:
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def body(self) -> dict[str, Any]:
                read = self.rfile.read(int(self.headers["Content-Length"]))
                found: dict[str, Any] = json.loads(read)
                return found

            def do_GET(self) -> None:
                self.answer(api.open)

            def do_POST(self) -> None:
                if api.forbidden:
                    data = json.dumps({"message": FORBIDDEN}).encode()
                    self.send_response(403)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                    return
                if self.path.endswith("/dispatches"):
                    api.started.append((self.path, self.body()))
                    self.send_response(204)
                    self.end_headers()
                    return
                api.open.append(self.body() | {"number": 7, "html_url": "https://git.invalid/7"})
                self.answer(api.open[-1])

            def do_PATCH(self) -> None:
                api.open[0].update(self.body())
                self.answer(api.open[0])

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    running = Api()
    port = running.server.server_address[1]
    monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GITHUB_TOKEN", "t0ken")
    monkeypatch.setenv("GITHUB_REPOSITORY", "acme/higgs-image")
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of a bare repository, with a lock in it."""
    remote, clone = tmp_path / "remote.git", tmp_path / "clone"
    subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(remote), str(clone)], check=True)
    (clone / "versions.lock").write_text("old\n")
    git(clone, "add", "versions.lock")
    git(clone, "commit", "--quiet", "--message", "first")
    return clone


def test_it_is_opened_and_then_renewed(checkout: Path, api: Api) -> None:
    assert pull_request.open_or_renew(checkout, "Take", "body") == ""
    (checkout / "versions.lock").write_text("new\n")
    url = pull_request.open_or_renew(checkout, "Take newer pins: fork", "fork: a -> b")
    assert url == "https://git.invalid/7"
    (found,) = api.open
    assert (found["head"], found["base"], found["body"]) == (
        pull_request.BRANCH, "main", "```\nfork: a -> b\n```",
    )  # fmt: skip
    remote = checkout.parent / "remote.git"
    assert git(remote, "show", f"{pull_request.BRANCH}:versions.lock") == "new"

    (checkout / "versions.lock").write_text("newer\n")
    pull_request.open_or_renew(checkout, "Take newer pins: base", "base")
    assert len(api.open) == 1 and api.open[0]["title"] == "Take newer pins: base"
    assert git(remote, "show", f"{pull_request.BRANCH}:versions.lock") == "newer"
    run = "/repos/acme/higgs-image/actions/workflows/ci.yml/dispatches"
    assert api.started == [(run, {"ref": pull_request.BRANCH})] * 2
    assert (PROJECT / ".github" / "workflows" / pull_request.CI).is_file()
    config = (checkout / ".git" / "config").read_text()
    assert "t0ken" not in config and "extraheader" not in config


def test_a_repository_that_lets_no_workflow_open_one(checkout: Path, api: Api) -> None:
    api.forbidden = True
    (checkout / "versions.lock").write_text("new\n")
    with pytest.raises(RegistryAuthError, match="not permitted") as caught:
        pull_request.open_or_renew(checkout, "Take", "body")
    assert "Workflow permissions" in caught.value.hint


def test_missing_remote_is_an_error(checkout: Path, api: Api) -> None:
    (checkout / "versions.lock").write_text("new\n")
    git(checkout, "remote", "set-url", "origin", str(checkout / "nowhere"))
    with pytest.raises(NetworkError, match="git push failed"):
        pull_request.open_or_renew(checkout, "Take", "body")
    assert not api.open


def test_by_hand_it_is_refused(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    with pytest.raises(UsageError, match="GITHUB_REPOSITORY"):
        pull_request.open_or_renew(checkout, "Take", "body")
