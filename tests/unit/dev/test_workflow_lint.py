"""The workflows: what they may, who can start them, and that every step is a task that exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from invoke.parser import Parser

from higgs_image import process
from higgs_image.tasks import namespace
from higgs_image.workspace import PROJECT

FOLDER = PROJECT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))

MAY_WRITE = {
    "ci": {},
    "build": {"packages", "id-token"},
    "gpu-smoke": {"packages"},
    "pod-smoke": {"packages"},
    "promote": {"packages"},
    "rollback": {"packages"},
    "template-check": {},
    "cleanup": {"packages"},
    "update-locks": {"actions", "contents", "pull-requests"},
}


def load(path: Path) -> dict[str, Any]:
    document: dict[Any, Any] = yaml.safe_load(path.read_text())
    document["on"] = document.pop(True)  # YAML 1.1 reads `on` as a truth value
    if not isinstance(document["on"], dict):
        document["on"] = {document["on"]: None}
    return document


WORKFLOWS = {path.stem: load(path) for path in FILES}
JOBS = [(name, job, body) for name, flow in WORKFLOWS.items() for job, body in flow["jobs"].items()]
STEPS = [(name, step) for name, _, body in JOBS for step in body["steps"]]

each_job = pytest.mark.parametrize(("name", "job", "body"), JOBS)


def test_these_are_all() -> None:
    assert set(WORKFLOWS) == set(MAY_WRITE)
    assert {path.name for path in FOLDER.iterdir()} == {path.name for path in FILES}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_is_permitted_that_a_job_does_not_name(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {}


@each_job
def test_jobs_have_only_the_permissions_they_need(
    name: str, job: str, body: dict[str, Any]
) -> None:
    written = {scope for scope, value in body["permissions"].items() if value == "write"}
    assert written <= set(MAY_WRITE[name])
    assert set(body["permissions"].values()) <= {"read", "write"}


@each_job
def test_a_job_ends(name: str, job: str, body: dict[str, Any]) -> None:
    assert 0 < body["timeout-minutes"] <= 120


@each_job
def test_self_hosted_runners_are_out_of_reach(name: str, job: str, body: dict[str, Any]) -> None:
    """Whoever opens a pull request could run code there."""
    if "self-hosted" in body["runs-on"]:
        assert set(WORKFLOWS[name]["on"]) == {"workflow_dispatch"}
        assert body["environment"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_event_runs_foreign_code_with_our_rights(name: str) -> None:
    events = set(WORKFLOWS[name]["on"])
    assert not events & {"pull_request_target", "workflow_run", "issue_comment"}
    if "pull_request" in events:
        assert name == "ci"


def test_no_pull_request_can_write() -> None:
    for body in WORKFLOWS["ci"]["jobs"].values():
        assert body["permissions"] == {"contents": "read"}
        assert "environment" not in body and "secrets" not in str(body)


def test_promote_rollback_and_cleanup_are_never_dropped_or_held_up() -> None:
    """GitHub drops all but one waiting run of a group, and an approval keeps a group waiting."""
    for name in ("promote", "rollback", "cleanup"):
        assert "concurrency" not in WORKFLOWS[name]
        assert not any("concurrency" in job for job in WORKFLOWS[name]["jobs"].values())


def test_moves_and_deletions_need_approval() -> None:
    for name, _job, body in JOBS:
        commands = " ".join(step.get("run", "") for step in body["steps"])
        if re.search(r"inv (promote|rollback)|cleanup .*--yes", commands):
            assert body["environment"] == "release", name
            assert "pull_request" not in WORKFLOWS[name]["on"]
    assert (
        WORKFLOWS["cleanup"]["jobs"]["delete"]["if"] == "github.event_name == 'workflow_dispatch'"
    )


def test_only_ci_is_ever_cancelled() -> None:
    for name, flow in WORKFLOWS.items():
        if "concurrency" in flow:
            assert flow["concurrency"]["cancel-in-progress"] is (name == "ci")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit_with_their_version(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_one_commit_for_each_action() -> None:
    used = {step["uses"] for _, step in STEPS if "uses" in step}
    assert len(used) == len({x.partition("@")[0] for x in used})


def test_checkouts_keep_no_token() -> None:
    for _, step in STEPS:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}


@each_job
def test_a_container_is_pinned_by_its_digest(name: str, job: str, body: dict[str, Any]) -> None:
    if "container" in body:
        assert re.search(r":[\d.]+-\w+@sha256:[0-9a-f]{64}$", body["container"]["image"])
        assert name == "ci", "what a job of ours may do is for the runner's own system"


RUNS = [(n, body, step) for n, _, body in JOBS for step in body["steps"] if "run" in step]


@pytest.mark.parametrize(("name", "job", "step"), RUNS)
def test_a_step_is_one_task_that_exists(
    name: str, job: dict[str, Any], step: dict[str, Any]
) -> None:
    command = step["run"]
    assert "\n" not in command and command.startswith("./inv ")
    assert "${{" not in command, "inputs go by the environment, or they are code"
    assert not re.search(r"[;|&<>`]|\$\(", command)
    variables = set(re.findall(r"\$(\w+)", command))
    assert command.count('"') == 2 * len(variables), "a variable without quotes"
    assert variables <= job.get("env", {}).keys()
    words = shlex.split(command)[1:]
    parsed = Parser(contexts=namespace.to_contexts()).parse_argv(words)
    assert [context.name for context in parsed] and not parsed.unparsed


SECRETS = {
    "GITHUB_TOKEN": "${{ github.token }}",
    "RUNPOD_API_KEY": "${{ secrets.RUNPOD_API_KEY }}",
}


def test_secrets_reach_only_the_step_that_needs_them() -> None:
    for _, _, body in JOBS:
        assert not re.search("token|secrets", str(body.get("env", {})).lower())
    for name, step in STEPS:
        for key, value in step.get("env", {}).items():
            assert value == SECRETS[key], name
            assert key != "RUNPOD_API_KEY" or re.search(" (pod|template)-", step["run"]), name


def test_jobs_with_the_key_of_runpod_have_its_environment() -> None:
    for name, _job, body in JOBS:
        if "RUNPOD_API_KEY" in str(body):
            assert body["environment"] == "runpod", name
            assert set(WORKFLOWS[name]["on"]) <= {"workflow_dispatch", "schedule"}


def test_one_pod_is_rented_at_a_time_and_leftovers_are_deleted() -> None:
    flow = WORKFLOWS["pod-smoke"]
    smoke, reap = flow["jobs"]["smoke"], flow["jobs"]["reap"]
    assert smoke["concurrency"] == {"group": "pod-smoke", "cancel-in-progress": False}
    assert smoke["if"] == "github.event_name == 'workflow_dispatch'"
    assert smoke["steps"][-1]["if"] == "always()" and flow["on"]["schedule"]
    assert all("pod-reap --yes" in job["steps"][-1]["run"] for job in (smoke, reap))


def test_template_and_floating_tag_are_compared_daily() -> None:
    """The workflows promote and rollback move the tag alone."""
    flow = WORKFLOWS["template-check"]
    [step] = [x for x in flow["jobs"]["check"]["steps"] if "run" in x]
    assert step["run"] == "./inv template-check" and flow["on"]["schedule"]


def test_zizmor_finds_nothing() -> None:
    done = process.run(["zizmor", "--offline", "--no-progress", "--persona=regular", str(FOLDER)])
    assert done.code == 0, done.out + done.err
