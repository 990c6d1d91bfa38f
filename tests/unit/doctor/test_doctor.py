"""`./inv doctor`: each check's verdicts, the table, and that nothing hangs or leaks a secret."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from higgs_image import lockfile
from higgs_image.build import image, source
from higgs_image.doctor import engine, examination, model, network, pins
from higgs_image.doctor.model import Check, DoctorReport, Finding, Result, Subject
from higgs_image.errors import EngineError
from higgs_image.files import sha256_bytes
from higgs_image.ports import free_port
from higgs_image.process import Completed
from higgs_image.tasks.output import plain
from higgs_image.verdict import Verdict
from tests.unit.conftest import Project

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE

CONTAINERD = {
    "ServerVersion": "26.1.5+dfsg1",
    "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
    "DockerRootDir": "/",
    "Name": socket.gethostname(),
    "Runtimes": {"runc": {}},
}
CLASSIC = CONTAINERD | {"DriverStatus": [["Backing Filesystem", "extfs"]]}


@dataclass
class Programs:
    """Answers of programs, by the beginning of their command line; others are not installed."""

    answers: dict[str, Completed] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def say(self, command: str, out: str = "", err: str = "", code: int = 0) -> None:
        self.answers[command] = Completed(code, out, err)

    def ask(self, *command: str, **_: object) -> Completed:
        line = " ".join(command)
        self.asked.append(line)
        fitting = [x for x in self.answers if line.startswith(x)]
        return self.answers[max(fitting, key=len)] if fitting else Completed(127, "", "missing")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    fake = Programs()
    for module in (engine, network, pins):
        monkeypatch.setattr(module, "ask", fake.ask)
    return fake


@pytest.fixture
def subject(project: Project) -> Subject:
    return Subject(project.workspace, project.load(), CONTAINERD)


def check(name: str, subject: Subject) -> Finding:
    return model.one(name, examination.CHECKS[name], subject)


# The frame -----------------------------------------------------------------------------------


def test_the_table_counts_and_shows_remedies() -> None:
    findings = (
        Finding("engine", PASS, "Docker 26"),
        Finding("gpu", INCONCLUSIVE, "none", "get one"),
        Finding("skopeo", FAIL, "missing", "install it"),
    )
    text = DoctorReport(findings).text()
    assert "fail          skopeo  missing\n" in text
    assert "                      hint: install it\n" in text
    assert text.endswith("1 failed, 1 inconclusive, of 3 checks")
    assert not DoctorReport(findings).ok


def test_inconclusive_does_not_fail_and_goes_into_json() -> None:
    diagnosis = DoctorReport((Finding("gpu", INCONCLUSIVE, "none"),))
    assert diagnosis.ok
    assert json.loads(json.dumps(plain(diagnosis)))["findings"][0]["verdict"] == "inconclusive"


def test_checks_run_side_by_side_and_late_ones_do_not_hold_up(subject: Subject) -> None:
    stop = threading.Event()

    def slow(_: Subject) -> Result:
        stop.wait(20)
        return model.passed("late")

    def quick(_: Subject) -> Result:
        return model.passed("quick")

    checks: dict[str, Check] = {"fork": slow, "git": quick, "gpu": slow}
    started = time.monotonic()
    found = examination.run_checks(checks, subject, 0.3)
    assert time.monotonic() - started < 10
    stop.set()
    assert [x.check for x in found] == ["fork", "git", "gpu"]
    assert [x.verdict for x in found] == [FAIL, PASS, INCONCLUSIVE]


def test_a_check_that_hangs_does_not_keep_the_process_alive() -> None:
    script = (
        "import time\n"
        "from higgs_image.doctor import examination\n"
        "found = examination.run_checks({'fork': lambda *_: time.sleep(60)}, None, 0.1)\n"
        "print(found[0].verdict)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "fail\n", done.stderr
    assert time.monotonic() - started < 20


def test_an_error_of_the_pipeline_is_a_failed_check(subject: Subject) -> None:
    def broken(_: Subject) -> Result:
        raise EngineError("it broke", "mend it")

    assert model.one("x", broken, subject) == Finding("x", FAIL, "it broke", "mend it")


def test_an_unreadable_file_is_inconclusive(subject: Subject) -> None:
    def forbidden(_: Subject) -> Result:
        raise PermissionError("no")

    assert model.one("x", forbidden, subject).verdict is INCONCLUSIVE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fatal: 'https://me:tok3n@git.example/x'", "fatal: 'https://***@git.example/x'"),
        ("https://tok3n@git.example/x", "https://***@git.example/x"),
        ("docker://debian@sha256:abc", "docker://debian@sha256:abc"),
        ("https://pypi.example/simple", "https://pypi.example/simple"),
    ],
)
def test_no_secret_is_shown(text: str, shown: str, subject: Subject) -> None:
    def leaky(_: Subject) -> Result:
        return model.failed(text, "")

    assert model.one("x", leaky, subject).found == shown


def test_every_check_stands_an_empty_machine(programs: Programs, project: Project) -> None:
    bare = Subject(project.workspace, None, {}, "Cannot connect")
    project.workspace.lock_file.unlink()
    verdicts = {name: check(name, bare).verdict for name in examination.CHECKS if name != "disk"}
    assert {name for name, verdict in verdicts.items() if verdict is FAIL} == {
        "engine", "buildx", "skopeo", "git", "lock",
    }  # fmt: skip
    assert PASS not in verdicts.values()


# The machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "refusal", "verdict", "found"),
    [
        (CONTAINERD, "", PASS, "Docker 26.1.5, containerd image store"),
        (CLASSIC, "", PASS, "Docker 26.1.5, classic image store"),
        (CONTAINERD | {"ServerVersion": "20.10.24"}, "", FAIL, "20.10.24"),
        ({}, "Cannot connect to the Docker daemon", FAIL, "Cannot connect"),
    ],
)
def test_engine(
    info: dict[str, Any], refusal: str, verdict: Verdict, found: str, subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(engine, "file_system", lambda *_: "ext4")
    finding = check("engine", replace(subject, info=info, refusal=refusal))
    assert finding.verdict is verdict
    assert found in finding.found
    assert bool(finding.remedy) == (verdict is FAIL)


def test_engine_without_the_right_to_ask(subject: Subject) -> None:
    finding = check("engine", replace(subject, info={}, refusal="permission denied while ..."))
    assert "usermod -aG docker" in finding.remedy


def test_engine_on_an_overlay(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "file_system", lambda *_: "overlay")
    finding = check("engine", subject)
    assert finding.verdict is FAIL
    assert "volume at" in finding.remedy


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [("buildx v0.13.0 x", PASS), ("buildx 0.9.1", FAIL), ("", FAIL)],
)
def test_buildx(answer: str, verdict: Verdict, programs: Programs, subject: Subject) -> None:
    programs.say("docker buildx version", answer, code=0 if answer else 1)
    assert check("buildx", subject).verdict is verdict


def test_builder_of_the_containerd_store(programs: Programs, subject: Subject) -> None:
    assert check("builder", subject).verdict is PASS
    assert programs.asked == []


@pytest.mark.parametrize(("code", "verdict"), [(0, PASS), (1, INCONCLUSIVE)])
def test_builder_of_the_classic_store_is_looked_for_and_not_made(
    code: int, verdict: Verdict, programs: Programs, subject: Subject
) -> None:
    programs.say("docker buildx inspect higgs-image", code=code)
    assert check("builder", replace(subject, info=CLASSIC)).verdict is verdict
    assert not any("create" in x for x in programs.asked)


@pytest.mark.parametrize(
    ("version", "info", "verdict"),
    [
        ("1.9.3", CONTAINERD, PASS),
        ("1.18.0", CLASSIC, PASS),
        ("1.9.2", CONTAINERD, FAIL),
        ("1.9.3", CLASSIC, FAIL),
        ("1.9.3", CLASSIC | {"ServerVersion": "24.0.7"}, PASS),
        ("1.9.3", {}, PASS),
    ],
)
def test_skopeo(
    version: str, info: dict[str, Any], verdict: Verdict, programs: Programs, subject: Subject
) -> None:
    programs.say("skopeo --version", f"skopeo version {version}")
    assert check("skopeo", replace(subject, info=info)).verdict is verdict


def test_git(programs: Programs, subject: Subject) -> None:
    assert check("git", subject).verdict is FAIL
    programs.say("git --version", "git version 2.39.5")
    assert check("git", subject) == Finding("git", PASS, "git 2.39.5")


@pytest.mark.parametrize(
    ("free", "built", "verdict"),
    [(22.1, False, PASS), (21.9, False, FAIL), (5.1, True, PASS), (4.9, True, FAIL)],
)
def test_disk(
    free: float, built: bool, verdict: Verdict, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**12, 0, int(free * 1e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    if built:
        subject.workspace.layout("zstd").mkdir(parents=True)
    assert image.DISK_GB == 22.0
    for name in ("disk", "engine disk"):
        finding = check(name, subject)
        assert finding.verdict is verdict
        assert f"{free:.1f} GB free" in finding.found


def test_disk_of_an_engine_on_another_machine(subject: Subject) -> None:
    finding = check("engine disk", replace(subject, info=CONTAINERD | {"Name": "elsewhere"}))
    assert finding.verdict is INCONCLUSIVE
    assert "another machine" in finding.found


def test_gpu(programs: Programs, subject: Subject) -> None:
    assert check("gpu", subject).verdict is INCONCLUSIVE
    assert "the smoke test runs on a CPU" in check("gpu", subject).found
    programs.say("nvidia-smi", "NVIDIA-SMI has failed because ...\n", code=9)
    failed = check("gpu", subject)
    assert (failed.verdict, "has failed" in failed.found) == (INCONCLUSIVE, True)
    programs.say("nvidia-smi", "NVIDIA L4, 23034 MiB, 550.54\n")
    assert check("gpu", subject) == Finding("gpu", PASS, "NVIDIA L4, 23034 MiB, 550.54")


def test_gpu_toolkit(subject: Subject) -> None:
    assert check("gpu toolkit", subject).verdict is INCONCLUSIVE
    info = CONTAINERD | {"Runtimes": {"runc": {}, "nvidia": {}}}
    assert check("gpu toolkit", replace(subject, info=info)).verdict is PASS


# The pins and what has to be reached ---------------------------------------------------------


def test_lock(subject: Subject, project: Project) -> None:
    assert check("lock", subject).verdict is PASS
    requirements = project.workspace.lock_file.parent / "requirements" / "requirements.txt"
    requirements.write_text("changed\n")
    finding = check("lock", subject)
    assert finding.verdict is FAIL
    assert "requirements_sha256" in finding.found
    assert "./inv lock" in finding.remedy


@pytest.mark.parametrize("name", ["fork", "submodule"])
def test_a_repository_that_answers_by_way_of_instead_of(name: str, subject: Subject) -> None:
    finding = check(name, subject)  # git itself is asked: the URL is redirected to a folder
    assert finding.verdict is PASS
    assert finding.found.endswith(".git answers")


@pytest.mark.parametrize("name", ["fork", "submodule"])
def test_a_repository_that_was_fetched_works_offline(
    name: str, subject: Subject, project: Project
) -> None:
    source.ensure(project.workspace, project.load())
    shutil.rmtree(project.upstream.root)
    assert "works offline" in check(name, subject).found
    some = next((project.workspace.source / name).rglob("*.py"))
    some.write_text("tampered = True\n")
    finding = check(name, subject)
    assert finding.verdict is FAIL
    assert "insteadOf" in finding.remedy


def test_a_git_host_that_is_silent(programs: Programs, subject: Subject) -> None:
    programs.say("git ls-remote", code=124)
    assert "no answer in 4 s" in check("fork", subject).found


FETCHED = 'https://index.example:443 "GET /simple/vllm/ HTTP/1.1" 200 128322\n'
AWAY = (
    "Could not fetch URL https://index.example/simple/vllm/: connection error: HTTPSConnectionPool"
    "(host='index.example', port=443): Max retries exceeded with url: /simple/vllm/ (Caused by "
    "NewConnectionError('<pip._vendor.urllib3 object at 0x7f>: Failed to establish a new "
    "connection: [Errno -2] Name or service not known')) - skipping\nERROR: No matching\n"
)


@pytest.mark.parametrize(
    ("out", "err", "code", "verdict", "found"),
    [
        (f"{FETCHED}Available versions: 0.9.0, 0.8.3, 0.8.2", "", 0, PASS,
         "https://index.example:443 has vllm 0.8.3"),
        (f"{FETCHED}Available versions: 0.8.30, 10.8.3", "", 0, FAIL, "0.8.3 is not offered"),
        (FETCHED, "ERROR: No matching distribution", 1, FAIL, "0.8.3 is not offered"),
        (AWAY, "", 1, FAIL, "https://index.example/simple/vllm/: Failed to establish a new "
         "connection: [Errno -2] Name or service not known"),
        ("", "", 124, FAIL, "no answer in 5 s"),
        ("", "/x/python: No module named pip", 1, INCONCLUSIVE, "no pip"),
    ],
)  # fmt: skip
def test_packages(
    out: str, err: str, code: int, verdict: Verdict, found: str, programs: Programs,
    subject: Subject,
) -> None:  # fmt: skip
    programs.say(sys.executable, out, err, code)
    finding = check("packages", subject)
    assert finding.verdict is verdict
    assert finding.found.endswith(found) or found == "no pip" in finding.found


def test_a_base_image_in_the_engine_works_offline(programs: Programs, subject: Subject) -> None:
    reference = f"debian:bookworm-slim@sha256:{'c' * 64}"
    programs.say(f"docker image inspect {reference}")
    finding = check("base image", subject)
    assert finding == Finding("base image", PASS, f"{reference} is in the engine, works offline")


def test_a_base_image_in_its_registry(
    programs: Programs, subject: Subject, project: Project
) -> None:
    manifest = '{"schemaVersion": 2}'
    digest = f"sha256:{sha256_bytes(manifest.encode())}"
    programs.say("docker image inspect", code=1)
    programs.say("skopeo inspect --raw docker://debian@sha256:", manifest)
    assert "got sha256:" in check("base image", subject).found
    project.replace(f"sha256:{'c' * 64}", digest)
    pinned = replace(subject, lock=lockfile.load(project.workspace.lock_file))
    assert check("base image", pinned).found == f"debian@{digest} can be pulled"


def test_a_base_image_that_cannot_be_pulled(programs: Programs, subject: Subject) -> None:
    programs.say(
        "skopeo inspect",
        err='time="x" level=fatal msg="Error parsing image name \\"docker://d@sha256:c\\": pinging '
        'container registry r.example: no such host"',
        code=1,
    )
    finding = check("base image", subject)
    assert finding.verdict is FAIL
    assert finding.found.endswith(
        "cannot be pulled: pinging container registry r.example: no such host"
    )


def test_an_overridden_base_image_is_the_one_that_counts(
    programs: Programs, subject: Subject
) -> None:
    programs.say("skopeo inspect --raw --tls-verify=false docker://127.0.0.1:5000/base:1", "{}")
    finding = check("base image", replace(subject, base_image="127.0.0.1:5000/base:1"))
    assert finding == Finding("base image", PASS, "127.0.0.1:5000/base:1 can be pulled")


@contextmanager
def server(status: int) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server on loopback that always answers with one status."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{http.server_port}", paths
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REGISTRY_USER", "REGISTRY_PASSWORD", "GITHUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def test_no_registry_is_configured(subject: Subject) -> None:
    assert check("registry", subject).verdict is INCONCLUSIVE


def test_invalid_registry(subject: Subject) -> None:
    finding = check("registry", replace(subject, registry="NOPE"))
    assert finding.verdict is FAIL
    assert "'nope' is not a registry" in finding.found


Login = Callable[[Programs], None]


def logged_in(programs: Programs) -> None:
    programs.say("skopeo login", "Existing credentials are valid.")


def refused(programs: Programs) -> None:
    programs.say("skopeo login", code=1, err='level=fatal msg="reading username: EOF"')
    programs.say("skopeo login --tls-verify=false --get-login", "alice")


def unknown(programs: Programs) -> None:
    programs.say("skopeo login", code=1, err="not logged into")


@pytest.mark.parametrize(
    ("status", "login", "verdict", "found"),
    [
        (200, unknown, PASS, "asks for no login"),
        (200, logged_in, PASS, "accepts the login from docker's configuration"),
        (401, logged_in, PASS, "accepts the login from docker's configuration"),
        (401, unknown, FAIL, "asks for a login, and none is known"),
        (401, refused, FAIL, "refused the login from docker's configuration"),
        (401, lambda _: None, INCONCLUSIVE, "skopeo is missing"),
        (503, logged_in, FAIL, "does not answer: 503"),
    ],
)
def test_registry(
    status: int, login: Login, verdict: Verdict, found: str, programs: Programs, subject: Subject
) -> None:
    login(programs)
    with server(status) as (host, paths):
        finding = check("registry", replace(subject, registry=f"{host}/org"))
    assert paths == ["/v2/"]
    assert finding.verdict is verdict
    assert found in finding.found
    assert "alice" not in finding.found + finding.remedy


def test_registry_with_a_login_from_the_environment(
    programs: Programs, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_USER", "alice")
    monkeypatch.setenv("REGISTRY_PASSWORD", "s3cret")
    logged_in(programs)
    with server(401) as (host, _):
        finding = check("registry", replace(subject, registry=host))
    assert finding.found.endswith("accepts the login from the environment")
    assert not any("s3cret" in x for x in [*programs.asked, finding.found])
    assert all("--authfile /proc/self/fd/" in x for x in programs.asked)


def test_registry_that_is_down(subject: Subject) -> None:
    finding = check("registry", replace(subject, registry=f"127.0.0.1:{free_port()}/org"))
    assert finding.verdict is FAIL
    assert "does not answer" in finding.found


@pytest.mark.parametrize(("status", "verdict"), [(200, PASS), (404, INCONCLUSIVE)])
def test_hub(
    status: int, verdict: Verdict, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(status) as (host, paths):
        monkeypatch.setenv("HF_ENDPOINT", f"http://{host}/")
        finding = check("hub", subject)
    assert paths == ["/api/models/bosonai/model"]
    assert finding.verdict is verdict


def test_a_missing_hub_fails_nothing(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert check("hub", subject).verdict is INCONCLUSIVE


def test_examine_puts_it_all_together(
    programs: Programs, project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(examination, "engine_info", lambda _: ({}, "Cannot connect"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    diagnosis = examination.examine(project.workspace)
    assert [x.check for x in diagnosis.findings] == list(examination.CHECKS)
    assert not diagnosis.ok
    assert set(examination.NETWORK) < set(examination.CHECKS)
