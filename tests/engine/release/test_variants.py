"""Images of one lock that differ, by variant or GPUs: each is released apart from the others."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from higgs_image.cloud import description, image_rules, resource, template
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.labels import ONLY_GPUS
from higgs_image.oci.artifacts import Repository
from higgs_image.release import image_store, move_plan, notes, retention, rollback, status, verify
from higgs_image.release.journal import Journal
from higgs_image.verdict import Verdict
from higgs_image.workspace import PROJECT
from tests.support.runpod.fixtures import account, runpod
from tests.support.runpod.server import FakeRunPod

from .conftest import Release

__all__ = ["account", "runpod"]

pytestmark = pytest.mark.engine

NAME = "cuda12.8"
FLOATING = "custom-cuda12.8"


@pytest.fixture
def other(release: Release) -> Release:
    """Releases the variant into the same repository."""
    return replace(release, lock=release.lock.for_variant(NAME))


def test_variants_are_promoted_and_rolled_back_apart(
    release: Release, other: Release, repository: Repository
) -> None:
    defaults = [release.push(x) for x in "12"]
    variants = [other.push(x) for x in "12"]
    for digest in defaults:
        assert release.promote(digest).reference == f"{release.target}:custom"
    for digest in variants:
        moved = other.promote(digest)
        assert moved.reference == f"{release.target}:{FLOATING}"
        assert f"--moving {FLOATING} " in moved.undo or moved.previous is None
    history = Journal(repository)
    move_plan.apply(history, rollback.plan_rollback(history, "it hums", FLOATING))
    assert repository.digest("custom") == defaults[1]
    assert repository.digest(FLOATING) == variants[0]
    assert status.tag_status(Journal(repository)) == [
        f"custom names {defaults[1]}", f"{FLOATING} names {variants[0]}",
    ]  # fmt: skip
    plan = retention.plan_cleanup(history, image_store.store_of(repository), 0, set())
    assert not plan.delete


def test_the_notes_name_the_variant_and_its_kernels(other: Release, repository: Repository) -> None:
    moved = other.promote(other.push("1"))
    files = repository.files(moved.record)
    manifest = json.loads(files[notes.MANIFEST])
    assert (manifest["variant"], manifest["moving"]) == (NAME, FLOATING)
    kernels = other.lock.kernels
    assert kernels and manifest["pins"]["kernels"] == kernels.filename
    assert f"| variant | {NAME} |" in files[notes.NOTES].decode()


@pytest.mark.parametrize("variant", ["", NAME])
def test_verify_compares_with_the_pins_of_the_variant(
    variant: str, release: Release, repository: Repository
) -> None:
    made = replace(release, lock=release.lock.for_variant(variant))
    digest = made.push("1")
    done = verify.verify(Journal(repository), digest, release.workspace, release.lock, None)
    found = {x.check: x for x in done.findings}
    assert found["pins"].verdict is Verdict.PASS, found["pins"].found


def test_verify_notices_the_kernels_of_another_wheel(
    other: Release, release: Release, repository: Repository
) -> None:
    digest = other.push("1", more={"org.higgs-image.kernels-sha256": "0" * 64})
    done = verify.verify(Journal(repository), digest, release.workspace, release.lock, None)
    (pins,) = [x for x in done.findings if x.check == "pins"]
    assert pins.verdict is Verdict.FAIL and "kernels is 0000" in pins.found


def test_an_image_for_fewer_gpus_never_moves_the_tag_of_all(
    release: Release, repository: Repository
) -> None:
    whole = release.push("1")
    release.promote(whole)
    few = release.push("2", more={ONLY_GPUS: "8.6 8.9"})
    assert release.promote(few).reference.endswith(":custom-sm86-sm89")
    assert release.custom() == whole


def test_each_variant_has_a_template_of_its_own(
    release: Release,
    other: Release,
    repository: Repository,
    account: RunPodClient,
    runpod: FakeRunPod,
) -> None:
    described, history = description.load(PROJECT), Journal(repository)
    code = " ".join(described.for_variant(NAME).gpu.capabilities)
    release.promote(release.push("1"))
    other.promote(other.push("1", more={"org.higgs-image.gpus": code}))
    for tag in ("custom", FLOATING):
        planned = template.plan_for(account, described, history, tag)
        resource.apply(account, history, planned)
    names = {x["name"]: x["image"] for x in runpod.templates.values()}
    assert set(names) == {described.name, described.for_variant(NAME).name}
    assert other.lock.tag in names[described.for_variant(NAME).name]
    floating = image_rules.find(history, FLOATING, described, floating=True)
    assert floating.reference.endswith(f":{FLOATING}")
