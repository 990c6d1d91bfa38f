"""Newer pins from local servers: a git repository, the hub, a package index."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from higgs_image import lockfile, retry
from higgs_image.errors import LockError, UpdateError, UsageError
from higgs_image.updates.report import UpdateReport
from higgs_image.updates.update import update as run_update
from tests.unit.conftest import HOST, SUBMODULE, Project, commit_all, git, write

NEW = "f" * 40


class Web:
    """Answers GET with what is in `pages`: status and body."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, bytes, str]] = {}
        self.headers: list[dict[str, str]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                web.headers.append(dict(self.headers))
                status, body, kind = web.pages.get(self.path, (404, b"{}", "application/json"))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def say(self, path: str, body: object, status: int = 200) -> None:
        self.pages[path] = (status, json.dumps(body).encode(), "application/json")


@pytest.fixture
def web() -> Iterator[Web]:
    running = Web()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def hub(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    monkeypatch.setenv("HF_ENDPOINT", web.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for repo in ("bosonai/model", "bosonai/tokenizer", "bosonai/hubert_base"):
        web.say(f"/api/models/{repo}/revision/main", {"id": repo, "sha": NEW})
    return web


@pytest.fixture
def updated(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project, and a registry that is asked only once."""
    monkeypatch.setattr(retry, "WAIT", 0.01)
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    return project


def update(project: Project, *names: str, dry_run: bool = False) -> UpdateReport:
    return run_update(project.workspace, names, dry_run=dry_run)


def changed_lines(before: str, after: str) -> list[str]:
    return [new for old, new in zip(before.split("\n"), after.split("\n"), strict=True)
            if old != new]  # fmt: skip


def test_an_update_changes_only_the_named_entry(updated: Project, hub: Web) -> None:
    before = updated.text
    report = update(updated, "generation")
    assert changed_lines(before, updated.text) == [
        f"date = {datetime.datetime.now(datetime.UTC).date()} # part of the tag",
        f'revision = "{NEW}"',
    ]
    assert updated.load().weights_for("generation").revision == NEW
    assert report.tag == updated.load().tag
    assert f"weights[0].revision: {'e' * 40} -> {NEW}" in report.text()
    assert update(updated, "generation").current == ("generation",)


def test_an_unpinned_revision_becomes_pinned(updated: Project, hub: Web) -> None:
    update(updated, "semantic-model")
    entry = updated.load().weights_for("semantic-model")
    assert entry.revision == NEW and entry.unpinned is None


def test_a_dry_run_changes_nothing(updated: Project, hub: Web) -> None:
    before = updated.text
    report = update(updated, "generation", dry_run=True)
    assert updated.text == before and "would take generation" in report.text()


def test_a_held_pin_is_reported_and_taken_only_by_name(updated: Project, hub: Web) -> None:
    updated.replace(
        'repo = "bosonai/model"', 'repo = "bosonai/model"\nhold = "the fork reads no newer"'
    )
    report = update(updated, "audio-tokenizer", dry_run=True)
    assert [x.name for x in report.taken] == ["audio-tokenizer"]
    report = run_update(updated.workspace)
    assert [x.name for x in report.held] == ["generation"]
    assert "held generation: the fork reads no newer" in report.text()
    assert updated.load().weights_for("generation").revision == "e" * 40
    assert updated.load().weights_for("audio-tokenizer").revision == NEW
    assert [x.name for x in update(updated, "generation").taken] == ["generation"]
    assert updated.load().weights_for("generation").hold == "the fork reads no newer"


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "needs a login"), (403, "licence"), (404, "does not exist"), (429, "too many"),
     (503, "503")],
)  # fmt: skip
def test_one_refusal_does_not_stop_the_other_entries(
    updated: Project, hub: Web, status: int, said: str
) -> None:
    hub.say("/api/models/bosonai/model/revision/main", {}, status)
    report = update(updated, "generation", "audio-tokenizer")
    assert [x.name for x in report.taken] == ["audio-tokenizer"]
    assert said in report.unchecked["generation"]
    assert "NOT CHECKED generation: bosonai/model" in report.text()


def test_an_update_that_checks_nothing_fails(
    updated: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    before = updated.text
    with pytest.raises(UpdateError, match="nothing could be checked"):
        update(updated, "generation", "audio-tokenizer")
    assert updated.text == before


@pytest.mark.parametrize("answer", [[], {}, {"sha": "main"}, {"sha": 5}])
def test_an_answer_without_a_revision_is_refused(
    updated: Project, hub: Web, answer: object
) -> None:
    hub.say("/api/models/bosonai/model/revision/main", answer)
    with pytest.raises(UpdateError):
        update(updated, "generation")


def test_a_renamed_repository_is_reported_and_a_token_sent(
    updated: Project, hub: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "t0ken")
    hub.say("/api/models/bosonai/model/revision/main", {"id": "bosonai/new", "sha": NEW})
    report = update(updated, "generation")
    assert "the hub now calls it bosonai/new" in report.text()
    assert hub.headers[-1]["Authorization"] == "Bearer t0ken"


def test_an_unknown_entry_or_an_inconsistent_lock_is_refused(updated: Project) -> None:
    with pytest.raises(UsageError, match="unknown entry: forks"):
        update(updated, "forks")
    updated.replace('input_sha256 = "', 'input_sha256 = "0')
    with pytest.raises(LockError):
        update(updated, "fork")


# The fork -------------------------------------------------------------------------------------


def test_the_forks_commit_brings_its_submodule(updated: Project) -> None:
    up = updated.upstream
    write(up.submodule, {"boson_multimodal/new.py": "new = 1\n"})
    submodule = commit_all(up.submodule)
    commit = up.record_submodule(submodule)
    report = update(updated, "fork")
    locked = updated.load()
    assert locked.fork.commit == commit and locked.fork.tree == up.tree()
    assert locked.submodule.commit == submodule
    assert locked.submodule.tree == up.tree(repo=up.submodule)
    assert set(report.taken[0].changes) == {
        "fork.commit", "fork.tree", "submodule.commit", "submodule.tree",
    }  # fmt: skip
    assert update(updated, "fork").current == ("fork",)


def test_an_update_works_below_build_and_leaves_nothing(
    updated: Project, index: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements(updated)
    updated.upstream.change({"vllm/x.py": "x = 1\n"})
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    report = update(updated, "fork", "python")
    assert [x.name for x in report.taken] == ["fork", "python"], report.unchecked
    assert list((updated.workspace.build / "tmp").iterdir()) == []


def test_a_tag_is_followed_to_its_commit(updated: Project) -> None:
    commit = updated.upstream.change({"vllm/x.py": "x = 1\n"})
    git(updated.upstream.fork, "tag", "--annotate", "--message", "x", "v1")
    updated.replace('ref = "main"', 'ref = "v1"')
    update(updated, "fork")
    assert updated.load().fork.commit == commit


def test_a_commit_that_changes_a_kernel_is_refused(updated: Project) -> None:
    updated.upstream.change({"csrc/kernel.cu": "other\n"})
    before = updated.text
    with pytest.raises(UpdateError, match="changes csrc"):
        update(updated, "fork")
    assert updated.text == before


def test_a_missing_branch_or_repository_is_named(updated: Project) -> None:
    updated.replace('ref = "main"', 'ref = "mainly"')
    with pytest.raises(UpdateError, match="no branch or tag mainly"):
        update(updated, "fork")
    updated.replace('ref = "mainly"', 'ref = "main"')
    shutil.rmtree(updated.upstream.fork)
    with pytest.raises(UpdateError, match=r"git repository|does not exist|not found"):
        update(updated, "fork")
    assert HOST in updated.text and SUBMODULE in updated.text


# Python ---------------------------------------------------------------------------------------


def wheel(name: str, version: str) -> bytes:
    buffer = io.BytesIO()
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


@pytest.fixture
def index(web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Web:
    """A package index with three versions of one package; the newest is of yesterday."""
    today = datetime.datetime.now(datetime.UTC)
    ages = {"1.0": 900, "1.1": 60, "1.2": 1}
    files = []
    for version, days in ages.items():
        data = wheel("thing", version)
        name = f"thing-{version}-py3-none-any.whl"
        web.pages[f"/files/{name}"] = (200, data, "application/octet-stream")
        when = (today - datetime.timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        hashes = {"sha256": hashlib.sha256(data).hexdigest()}
        files.append({"filename": name, "url": f"{web.address}/files/{name}", "hashes": hashes,
                      "upload-time": when, "size": len(data)})  # fmt: skip
    body = {"meta": {"api-version": "1.1"}, "name": "thing", "files": files,
            "versions": list(ages)}  # fmt: skip
    kind = "application/vnd.pypi.simple.v1+json"
    web.pages["/simple/thing/"] = (200, json.dumps(body).encode(), kind)
    for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{web.address}/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    return web


def requirements(project: Project, wanted: str = "thing") -> Path:
    """Lock the package at 1.0 in the project's requirements."""
    folder = project.workspace.lock_file.parent / "requirements"
    (folder / "input.txt").write_text(f"{wanted}\n")
    digest = hashlib.sha256(wheel("thing", "1.0")).hexdigest()
    (folder / "requirements.txt").write_text(
        "# made by:\n#    uv pip compile input.txt -o requirements.txt --generate-hashes "
        "--exclude-newer 2024-01-01 --python-version 3.11\n"
        f"thing==1.0 \\\n    --hash=sha256:{digest}\n"
    )
    project.workspace.lock_file.write_text(project.text)
    lockfile.refresh(project.load(), project.workspace.root)
    return folder / "requirements.txt"


def test_packages_are_taken_when_they_are_old_enough(updated: Project, index: Web) -> None:
    path = requirements(updated)
    report = update(updated, "python", dry_run=True)
    assert "requirements.txt: thing 1.0 -> 1.1" in report.text() and "==1.0" in path.read_text()
    update(updated, "python")
    assert "thing==1.1" in path.read_text()
    second = path.read_text().splitlines()[1]
    assert "--directory" not in second and "2024-01-01" not in second
    lockfile.require_consistent(updated.load(), updated.workspace.root)
    assert update(updated, "python").current == ("python",)
    younger = run_update(updated.workspace, ["python"], min_age=datetime.timedelta(0))
    assert "thing 1.1 -> 1.2" in younger.text()
    assert "build.txt was not checked" in younger.text()


def test_packages_of_a_variant_are_an_entry_of_their_own(updated: Project, index: Web) -> None:
    path = requirements(updated)
    default = path.read_text()
    updated.add_variant()
    other = path.with_name("other.txt")
    path.with_name("other.in").write_text("thing\n")
    command = default.replace("input.txt -o requirements.txt", "other.in -o other.txt")
    passed = "--exclude-newer-package a=2999-01-01 --exclude-newer-package b=2024-02-01"
    other.write_text(command.replace("2024-01-01", f"2024-01-01 {passed}"))
    lockfile.refresh(updated.load(), updated.workspace.root)
    report = update(updated)
    assert [x.name for x in report.held] == ["python-cuda12.8"] and "==1.0" in other.read_text()
    path.write_text(default)
    lockfile.refresh(updated.load(), updated.workspace.root)
    assert [x.name for x in update(updated, "python-cuda12.8").taken] == ["python-cuda12.8"]
    assert "thing==1.1" in other.read_text() and path.read_text() == default
    assert "--exclude-newer-package a=2999-01-01 --python" in other.read_text()
    lockfile.require_consistent(updated.load(), updated.workspace.root)


def test_packages_without_a_solution_are_refused(updated: Project, index: Web) -> None:
    path = requirements(updated, "thing>2")
    before = path.read_text()
    with pytest.raises(UpdateError, match="no solution"):
        update(updated, "python")
    assert path.read_text() == before


def test_an_unreachable_index_does_not_stop_the_other_entries(
    updated: Project, index: Web, monkeypatch: pytest.MonkeyPatch, hub: Web
) -> None:
    requirements(updated)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    report = update(updated, "python", "generation")
    assert "did not answer" in report.unchecked["python"]
    assert [x.name for x in report.taken] == ["generation"]
