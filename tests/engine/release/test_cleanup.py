"""A cleanup of a real registry, which deletes by digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from higgs_image.errors import PromotionConflictError
from higgs_image.oci.artifacts import Artifact, Repository
from higgs_image.release import image_store, records, retention
from higgs_image.release.journal import Journal
from higgs_image.release.records import Promote

from .conftest import Release

pytestmark = pytest.mark.engine


def test_old_images_are_deleted_with_their_attestations(
    release: Release, repository: Repository, tmp_path: Path
) -> None:
    tags = [f"2026010{number}-abcdef0-000000{number}" for number in range(6)]
    digests = [release.push(str(number), tag=tag) for number, tag in enumerate(tags)]
    release.promote(digests[0])
    release.promote(digests[1])  # so 0 and 1 stay
    for number in (0, 2):  # the same content: one manifest with two tags
        repository.put(f"sha256-{digests[number][7:]}.sig", Artifact("x", {"a": "b"}, {}))
    repository.put(f"sha256-{digests[2][7:]}.att", Artifact("y", {}, {}))
    pins = tmp_path / "pins"
    pins.write_text(f"{digests[3]}\n")

    history, store = Journal(repository), image_store.store_of(repository)
    before = repository.tags()
    plan = retention.plan_cleanup(history, store, 1, retention.pins_in([pins]))
    assert repository.tags() == before, "a plan changes nothing"
    assert [x.tags for x in plan.delete] == [
        (tags[2],), (tags[4],), (f"sha256-{digests[2][7:]}.att",),
    ]  # fmt: skip
    retention.apply(history, store, plan)
    after = repository.tags()
    assert set(before) - set(after) == {tags[2], tags[4], f"sha256-{digests[2][7:]}.att"}
    for number in (0, 1, 3, 5):
        assert repository.digest(digests[number]) == digests[number]
    assert repository.digest(f"sha256-{digests[0][7:]}.sig") is not None
    again = retention.plan_cleanup(history, store, 1, retention.pins_in([pins]))
    assert not again.delete
    assert "it was promoted" in again.text() and release.rollback().digest == digests[0]


def test_cleanup_stops_while_a_promotion_is_under_way(
    release: Release, repository: Repository
) -> None:
    digest = release.push("1", tag="20260101-abcdef0-0000001")
    history, store = Journal(repository), image_store.store_of(repository)
    plan = retention.plan_cleanup(history, store, 0, set())
    assert [x.digest for x in plan.delete] == [digest]
    by = history.read()[0].record.by
    history.write(Promote(digest, records.now(), by, "custom", None))
    with pytest.raises(PromotionConflictError, match="under way"):
        retention.apply(history, store, plan)
    assert not retention.plan_cleanup(history, store, 0, set()).delete
    assert repository.digest(digest) == digest
