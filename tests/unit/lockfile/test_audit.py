"""Known vulnerabilities of locked packages, looked up by the real pip-audit in a small database."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from invoke.context import Context

from higgs_image.errors import AuditError, LockError, UsageError
from higgs_image.lockfile import audit
from higgs_image.tasks.lock import lock as lock_task
from higgs_image.verdict import Verdict
from higgs_image.workspace import PROJECT, Workspace
from tests.unit.conftest import Project

pytestmark = pytest.mark.usefixtures("warm_programs")

HASH = f"--hash=sha256:{64 * '1'}"
TORCH = {
    "id": "GHSA-aaaa-bbbb-cccc", "aliases": ["CVE-2026-1"], "modified": "2026-01-01T00:00:00Z",
    "affected": [{"package": {"name": "torch", "ecosystem": "PyPI"}, "versions": ["2.6.0"],
                  "ranges": [{"type": "ECOSYSTEM",
                              "events": [{"introduced": "0"}, {"fixed": "2.7.0"}]}]}],
}  # fmt: skip


class Database:
    """Answers as OSV does; `known` is package name to its advisories."""

    def __init__(self) -> None:
        self.known: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[str] = []
        database = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_POST(self) -> None:
                query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = query["package"]["name"]
                database.asked.append(f"{name} {query['version']}")
                body = json.dumps({"vulns": database.known.get(name, [])}).encode()
                self.send_response(200 if self.path == "/v1/query" else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    running = Database()
    monkeypatch.setenv("OSV_URL", f"http://127.0.0.1:{running.server.server_address[1]}/v1/query")
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def project(lock_only: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with its own folder for the accepted advisories."""
    root = lock_only.workspace.lock_file.parent
    (root / "templates").symlink_to(PROJECT / "templates")
    made = Project(replace(lock_only.workspace, root=root), lock_only.upstream)
    monkeypatch.setattr(Workspace, "default", lambda: made.workspace)
    return made


def accept(project: Project, text: str) -> None:
    (project.workspace.root / "requirements/advisories.toml").write_text(text)


def run(project: Project) -> audit.AuditReport:
    return audit.audit(project.workspace, project.load())


def test_every_package_and_the_wheel_are_looked_up(project: Project, database: Database) -> None:
    report = run(project)
    assert sorted(database.asked) == ["torch 2.6.0", "uv 0.8.0", "uvloop 0.21.0", "vllm 0.8.3"]
    assert report.verdict == Verdict.PASS
    assert report.text() == "advisories: pass"


def test_packages_of_variants_are_looked_up(project: Project, database: Database) -> None:
    project.add_variant()
    database.known = {"torch": [TORCH]}
    report = run(project)
    assert [x.package for x in report.advisories] == ["torch 2.6.0", "torch 2.8.0"]
    assert sorted(database.asked) == [
        "torch 2.6.0", "torch 2.8.0", "uv 0.8.0", "uvloop 0.21.0", "vllm 0.10.2", "vllm 0.8.3",
    ]  # fmt: skip


def test_an_advisory_without_a_reason_fails_the_check(
    project: Project, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    database.known["torch"] = [TORCH]
    report = run(project)
    assert report.verdict == Verdict.FAIL
    with pytest.raises(
        AuditError, match=r"torch 2\.6\.0: .*CVE-2026-1.*fixed in 2\.7\.0"
    ) as caught:
        report.require_accepted()
    assert "requirements/advisories.toml" in caught.value.hint
    with pytest.raises(SystemExit) as ended:
        lock_task(Context(), check=True)
    assert ended.value.code == 55
    assert "CVE-2026-1" in capsys.readouterr().err


@pytest.mark.parametrize("known_as", ["GHSA-aaaa-bbbb-cccc", "CVE-2026-1"])
def test_an_accepted_advisory_is_shown_with_its_reason(
    project: Project, database: Database, known_as: str, capsys: pytest.CaptureFixture[str]
) -> None:
    database.known["torch"] = [TORCH]
    accept(
        project,
        f'[[accepted]]\npackage = "Torch"\nadvisories = ["{known_as}"]\nreason = "not called"\n',
    )
    lock_task(Context(), check=True)
    shown = capsys.readouterr().out
    assert "advisories: pass\n" in shown and "(accepted: not called)" in shown


def test_an_advisory_of_another_package_is_not_accepted(
    project: Project, database: Database
) -> None:
    database.known["torch"] = [TORCH]
    accept(
        project,
        '[[accepted]]\npackage = "uv"\nadvisories = ["CVE-2026-1"]\nreason = "not called"\n',
    )
    assert run(project).verdict == Verdict.FAIL


@pytest.mark.parametrize(
    "text",
    ['[[accepted]]\npackage = "torch"\nadvisories = ["CVE-2026-1"]\n',
     '[[accepted]]\npackage = "torch"\nadvisories = ["CVE-2026-1"]\nreason = ""\n', "accepted"],
)  # fmt: skip
def test_an_acceptance_without_a_reason_is_refused(
    project: Project, database: Database, text: str
) -> None:
    accept(project, text)
    with pytest.raises(LockError, match=r"advisories\.toml: "):
        run(project)


def test_without_the_database_the_audit_is_inconclusive(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSV_URL", "http://127.0.0.1:1/v1/query")
    report = run(project)
    assert report.verdict == Verdict.INCONCLUSIVE
    assert report.unchecked == "http://127.0.0.1:1/v1/query did not answer"
    lock_task(Context(), check=True)
    assert "advisories: inconclusive: " in capsys.readouterr().out


def test_a_database_that_is_not_a_url_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSV_URL", "garbage")
    with pytest.raises(UsageError, match="OSV_URL is not an http or https URL: 'garbage'"):
        run(project)


def test_the_real_list_gives_each_reason() -> None:
    text = (PROJECT / audit.ACCEPTED).read_text()
    assert len(re.findall("^reason = ", text, re.MULTILINE)) == text.count("[[accepted]]")
