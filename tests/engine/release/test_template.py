"""RunPod's template and pods with a real registry and journal; RunPod is a fake one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from higgs_image.cloud import description, image_rules, promotion, resource, template
from higgs_image.cloud.description import TemplateDescription
from higgs_image.cloud.pod import smoke
from higgs_image.cloud.promotion import TemplateTarget
from higgs_image.cloud.resource import AppliedResource, ResourcePlan
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.doctor.model import Finding, Subject, one
from higgs_image.doctor.rented import check_template
from higgs_image.errors import (
    CloudAuthError,
    CloudRefusedError,
    CloudUnavailableError,
    RegistryAuthError,
    RegistryNotFoundError,
    ReleaseRefusedError,
    TemplateDriftError,
    UsageError,
)
from higgs_image.oci.artifacts import Repository
from higgs_image.release import move_plan, rollback
from higgs_image.release.journal import Journal
from higgs_image.release.promote import PromotionConditions
from higgs_image.release.records import Smoke, TemplateUpdate
from higgs_image.workspace import PROJECT
from tests.support.runpod import rent
from tests.support.runpod.fixtures import account, runpod
from tests.support.runpod.server import READ_ONLY, ApiFault, FakeRunPod

from .conftest import GPU, Release

__all__ = ["account", "runpod"]

pytestmark = pytest.mark.engine


@pytest.fixture
def described() -> TemplateDescription:
    return description.load(PROJECT)


@pytest.fixture
def history(repository: Repository) -> Journal:
    return Journal(repository)


@pytest.fixture
def follower(account: RunPodClient, described: TemplateDescription) -> TemplateTarget:
    return TemplateTarget(account, described)


def plan(history: Journal, follower: TemplateTarget, what: str = "custom") -> ResourcePlan:
    image = image_rules.find(history, what, follower.description)
    return template.plan(follower.account, follower.description, image)


def apply(history: Journal, follower: TemplateTarget, what: str = "custom") -> AppliedResource:
    return resource.apply(follower.account, history, plan(history, follower, what))


def only(runpod: FakeRunPod) -> dict[str, Any]:
    (found,) = runpod.templates.values()
    return found


def writes(runpod: FakeRunPod) -> list[tuple[str, Any]]:
    return [(method, body) for method, _, body in runpod.requests if method != "GET"]


# The template


def test_the_template_names_exactly_the_promoted_image(
    release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod
) -> None:
    digest = release.push("1")
    release.promote(digest)
    done = apply(history, follower)
    assert only(runpod)["image"] == f"{release.target}:{release.lock.tag}-1@{digest}" == done.image
    assert only(runpod)["startJupyter"] is False and only(runpod)["startSsh"] is False
    assert only(runpod)["env"] == {
        "HIGGS_GENERATE_PORT": "8888", "HIGGS_API_KEY": "{{ RUNPOD_SECRET_higgs_api_key }}",
    }  # fmt: skip
    (entry,) = [x for x in history.of(digest) if isinstance(x.record, TemplateUpdate)]
    assert isinstance(entry.record, TemplateUpdate)
    assert (entry.tag, entry.record.id) == (done.record, only(runpod)["id"])
    assert "makes the template" in entry.text()


def test_applying_twice_changes_nothing(
    release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod
) -> None:
    release.promote(release.push("1"))
    apply(history, follower)
    before = list(writes(runpod))
    done = apply(history, follower)
    assert (done.record, done.changed) == ("", ()) and writes(runpod) == before


def test_only_what_differs_is_sent(
    release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod
) -> None:
    release.promote(release.push("1"))
    apply(history, follower)
    only(runpod).update(disk=99, startSsh=True)
    planned = plan(history, follower)
    assert [x.text() for x in planned.changes] == ["disk: 99 -> 20", "startSsh: True -> False"]
    with pytest.raises(TemplateDriftError, match="disk: 99 -> 20; startSsh: True -> False"):
        planned.require_agreement()
    done = apply(history, follower)
    assert writes(runpod)[-1] == ("PATCH", {"disk": 20, "startSsh": False})
    assert done.changed == ("disk", "startSsh")
    plan(history, follower).require_agreement()


def test_a_value_that_somebody_typed_is_not_shown(
    release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod
) -> None:
    release.promote(release.push("1"))
    apply(history, follower)
    only(runpod)["env"] = {"HIGGS_API_KEY": "hunter2hunter2", "HF_TOKEN": "hf_hunter2"}
    text = plan(history, follower).text()
    assert "hunter2" not in text
    assert "env.HF_TOKEN: (another value) -> nothing" in text
    assert "env.HIGGS_API_KEY: (another value) -> {{ RUNPOD_SECRET_higgs_api_key }}" in text


def test_a_missing_template_is_drift(
    release: Release, history: Journal, follower: TemplateTarget
) -> None:
    release.promote(release.push("1"))
    with pytest.raises(TemplateDriftError, match="has no template 'Higgs Audio v2'"):
        plan(history, follower).require_agreement()


def test_two_templates_of_the_name_are_refused(
    release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod
) -> None:
    release.promote(release.push("1"))
    apply(history, follower)
    runpod.templates["other"] = only(runpod) | {"id": "other"}
    with pytest.raises(UsageError, match="RunPod has 2 templates"):
        plan(history, follower)


def test_a_field_that_runpod_ignores_is_noticed(
    release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod
) -> None:
    release.promote(release.push("1"))
    apply(history, follower)
    only(runpod)["disk"] = 99

    def restore(when: str, method: str, path: str) -> None:
        if (when, method) == ("after", "PATCH"):
            only(runpod)["disk"] = 99

    runpod.watch = restore
    with pytest.raises(CloudRefusedError, match="reads back otherwise: disk: 99 -> 20"):
        apply(history, follower)


def test_the_floating_tag_can_be_named_instead(
    release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod
) -> None:
    release.promote(release.push("1"))
    policy = msgspec.structs.replace(follower.description.image, reference="floating")
    floating = msgspec.structs.replace(follower.description, image=policy)
    apply(history, replace(follower, description=floating))
    assert only(runpod)["image"] == f"{release.target}:custom"


# The image


def test_a_missing_tag(history: Journal, follower: TemplateTarget) -> None:
    with pytest.raises(RegistryNotFoundError, match=":custom was not found"):
        plan(history, follower)


def test_an_image_that_is_not_public(
    release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    release.promote(release.push("1"))
    monkeypatch.setattr(Repository, "is_public", lambda *_: False)
    with pytest.raises(RegistryAuthError, match="is not public: the provider cannot pull it"):
        plan(history, follower)
    image = msgspec.structs.replace(follower.description.image, registry_login="reg_1")
    private = replace(
        follower, description=msgspec.structs.replace(follower.description, image=image)
    )
    apply(history, private)
    assert only(runpod)["registry"] == "reg_1"
    image = msgspec.structs.replace(image, registry_login="reg_2")
    private = replace(
        follower, description=msgspec.structs.replace(follower.description, image=image)
    )
    with pytest.raises(UsageError, match=r"no registry login 'reg_2'; available: reg_1 \(ghcr\)"):
        plan(history, private)


@pytest.mark.parametrize(
    ("has", "allowed", "missing"),
    [("8.9", ["8.0", "8.9"], "8.0"), ("", ["8.9", "12.0"], "12.0"), ("8.0 8.6", ["9.0"], "9.0")],
)
def test_gpus_without_code_in_the_image_are_refused(
    has: str, allowed: list[str], missing: str, release: Release, history: Journal,
    follower: TemplateTarget,
) -> None:  # fmt: skip
    release.promote(release.push("1", more={"org.higgs-image.gpus": has} if has else {}))
    gpu = msgspec.structs.replace(follower.description.gpu, capabilities=allowed)
    other = replace(follower, description=msgspec.structs.replace(follower.description, gpu=gpu))
    with pytest.raises(ReleaseRefusedError, match=f"compute capability {missing}"):
        plan(history, other)


# Promotion and rollback


def promote(release: Release, history: Journal, follower: TemplateTarget, digest: str,
            conditions: PromotionConditions = GPU) -> AppliedResource:  # fmt: skip
    workspace = replace(release.workspace, build=release.folder / "build")
    _, _, applied = promotion.promote_with_template(
        history, digest, conditions, workspace, follower
    )
    return applied


def roll_back(history: Journal, follower: TemplateTarget) -> AppliedResource:
    steps = rollback.plan_rollback(history, "it hums", "custom")
    return promotion.roll_back_with_template(history, steps, GPU, follower)[1]


def test_tag_and_template_go_together(
    release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod
) -> None:
    first, second = release.push("1"), release.push("2")
    assert first in promote(release, history, follower, first).image
    assert second in promote(release, history, follower, second).image
    assert writes(runpod)[-1] == ("PATCH", {"image": only(runpod)["image"]})
    assert release.custom() == second
    assert first in roll_back(history, follower).image and release.custom() == first
    plan(history, follower).require_agreement()


@pytest.mark.parametrize("force", [False, True])
def test_no_template_names_an_untested_image(
    force: bool, release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod
) -> None:
    good, untested = release.push("1"), release.push("2", smoke="gpu fail")
    promote(release, history, follower, good)
    conditions = PromotionConditions(force=force, reason="now" if force else "")
    with pytest.raises(ReleaseRefusedError, match="ended with fail"):
        promote(release, history, follower, untested, conditions)
    assert release.custom() == good and good in only(runpod)["image"]


@pytest.mark.parametrize(
    "fault",
    [ApiFault("GET", "/v2/templates", 401), ApiFault("GET", "/v2/templates", 503)],
    ids=["no access", "RunPod is away"],
)
def test_the_tag_stays_where_the_template_cannot_be_read(
    fault: ApiFault, release: Release, history: Journal, follower: TemplateTarget,
    runpod: FakeRunPod,
) -> None:  # fmt: skip
    digest = release.push("1")
    runpod.faults = [fault]
    with pytest.raises((CloudAuthError, CloudUnavailableError)):
        promote(release, history, follower, digest)
    assert release.custom() is None


def test_a_template_that_cannot_be_written_is_finished_later(
    release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod
) -> None:
    first, second = release.push("1"), release.push("2")
    promote(release, history, follower, first)
    key = replace(follower.account, key=READ_ONLY)
    with pytest.raises(CloudAuthError, match=f"custom is {second}, its template is not") as found:
        promote(release, history, replace(follower, account=key), second)
    assert "./inv template-apply" in found.value.hint
    assert first in only(runpod)["image"], "it still names an image that passed"
    assert second in apply(history, follower).image


# Doctor


def examined(release: Release, root: Path = PROJECT) -> Finding:
    registry, _, name = release.target.rpartition("/")
    workspace = replace(release.workspace, root=root)
    subject = Subject(workspace, None, {}, registry=registry, name=name)
    return one("template", check_template, subject)


def test_doctor_says_whether_tag_and_template_agree(
    release: Release, history: Journal, follower: TemplateTarget, runpod: FakeRunPod,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert "nothing was promoted" in examined(release).found
    release.promote(release.push("1"))
    assert "has no template" in examined(release).found
    apply(history, follower)
    assert examined(release).verdict == "pass"
    release.promote(release.push("2"))
    drift = examined(release)
    assert drift.verdict == "inconclusive" and "image: " in drift.found and drift.remedy
    monkeypatch.delenv("RUNPOD_API_KEY")
    assert "RUNPOD_API_KEY is not set" in examined(release).found


# A pod's record


@pytest.fixture
def environment(release: Release, runpod: FakeRunPod) -> Iterator[dict[str, str]]:
    registry, _, name = release.target.rpartition("/")
    yield {
        "REGISTRY": registry, "IMAGE_NAME": name,
        "HIGGS_FAKE_FORK": str(release.workspace.lock_file.parent),
    } | runpod.environment()  # fmt: skip


def inv(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "RUNPOD_"))}
    return subprocess.run(
        [sys.executable, "-m", "invoke", *words], cwd=PROJECT, capture_output=True, text=True,
        env=clean | environment,
    )  # fmt: skip


def test_a_release_needs_no_gpu_of_its_own(
    release: Release, history: Journal, environment: dict[str, str], runpod: FakeRunPod
) -> None:
    """A test on a CPU with an engine, then one in a pod: that is enough for a promotion."""
    digest = release.push("1", smoke="")
    done = inv(environment, "pod-smoke", digest, "--dwell=0", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(done.stdout)
    assert shown["record"]["place"] == "pod" and shown["record"]["verdict"] == "pass"
    (entry,) = [x for x in history.of(digest) if isinstance(x.record, Smoke)]
    assert isinstance(entry.record, Smoke) and entry.record.device_class == "gpu"
    assert entry.record.device == "NVIDIA GeForce RTX 4090" and not runpod.pods
    with pytest.raises(ReleaseRefusedError, match="has passed custom-voice, idle-cpu, memory"):
        release.promote(digest)
    release.smoke(digest, "cpu")
    assert release.promote(digest).digest == digest == release.custom()
    for secret in (environment["RUNPOD_API_KEY"], "HIGGS_API_KEY"):
        assert secret not in done.stdout + done.stderr


def test_a_pod_that_stays_until_it_is_taken_down(
    release: Release, environment: dict[str, str], runpod: FakeRunPod
) -> None:
    release.promote(release.push("1"))
    done = inv(environment, "pod-up", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    pod = json.loads(done.stdout)
    assert list(runpod.pods) == [pod["id"]] and pod["secret"] == "higgs_api_key"
    listed = inv(environment, "pod-list")
    assert pod["id"] in listed.stdout and "until 20" in listed.stdout
    logs = inv(environment, "pod-logs", pod["id"])
    assert "higgs: ready" in logs.stdout and "[host] start container" in logs.stdout
    assert "no leftovers" in inv(environment, "pod-reap", "--yes").stdout
    assert inv(environment, "pod-down", pod["id"]).returncode == 0 and not runpod.pods


def test_the_whole_way_on_the_command_line(
    release: Release, environment: dict[str, str], runpod: FakeRunPod
) -> None:
    first, second = release.push("1"), release.push("2")
    steps: list[tuple[int, str, list[str]]] = [
        (34, "was not found", ["template-plan"]),
        (0, "would make: the template", ["promote", first, "--template", "--dry-run"]),
        (0, f"@{first}", ["promote", first, "--template"]),
        (0, "nothing to do", ["template-check"]),
        (0, "console.runpod.io/deploy", ["promote", second, "--template"]),
        (0, f"@{first}", ["rollback", "--reason=it hums", "--template"]),
        (0, f"@{first}", ["rollback", "--reason=it hums", "--template", "--yes"]),
        (0, '"startJupyter": false', ["template-render"]),
        (0, "changes image of the template", ["history"]),
        (68, "has no template", ["template-check", "--serverless"]),
        (0, "(serverless)", ["template-apply", "--serverless"]),
    ]
    for code, text, words in steps:
        done = inv(environment, *words)
        assert (done.returncode, text in done.stdout + done.stderr) == (code, True), (
            words, done.stdout, done.stderr,
        )  # fmt: skip
    done = inv(environment | {"RUNPOD_API_KEY": ""}, "template-plan")
    assert done.returncode == 60 and "RUNPOD_API_KEY is not set" in done.stderr
    assert len(runpod.templates) == 2


def test_a_registry_of_this_machine_is_not_for_runpod(
    release: Release, history: Journal, follower: TemplateTarget
) -> None:
    account = RunPodClient("rpa_x")
    with pytest.raises(UsageError, match="is on this machine"):
        replace(follower, account=account).plan(history, "custom", GPU)


def test_a_pod_takes_the_image_by_its_digest(
    release: Release, history: Journal, runpod: FakeRunPod, account: RunPodClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for module, name, value in rent.WAITS:
        monkeypatch.setattr(module, name, value)
    digest = release.push("1")
    made = rent.target(release.folder)
    options = smoke.PodOptions("", 1.0, 1.0, timeout=20.0, dwell=0.0)
    done, _ = replace(made, account=account, options=options).run(history, digest)
    sent = next(body for method, path, body in runpod.requests if method == "POST")
    assert sent["image"].endswith(f"@{digest}") and done.image.digest == digest
    assert done.image.tag == release.lock.tag and move_plan.FLOATING_TAG not in sent["image"]
