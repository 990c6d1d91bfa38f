"""Releases in a registry that shows a write only some time later, as ghcr.io does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from higgs_image.errors import PromotionConflictError
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.oci import read_back
from higgs_image.oci.artifacts import Repository, open_repository
from higgs_image.release import image_store, lease, record_tags, records, retention, status
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import tag_state
from tests.support.lagging_proxy import LaggingProxy

from .conftest import Release, named

pytestmark = pytest.mark.engine

LAG = 1.5

SEEDS = [int(x) for x in os.environ.get("HIGGS_LAG_SEEDS", "1").split()]
LONGEST = float(os.environ.get("HIGGS_LAG_SECONDS", LAG))
"""Longest lag of the whole way; 10 is what ghcr.io was seen to have, and takes minutes."""


@pytest.fixture
def proxy(served: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[LaggingProxy]:
    monkeypatch.setattr(read_back, "LAG", 10.0)
    monkeypatch.setattr(lease, "PROPAGATION", LAG)
    monkeypatch.setattr(read_back._Longest, "seconds", 0.0)
    with LaggingProxy(served.address, lambda: LAG) as running:
        yield running


@pytest.fixture
def behind(proxy: LaggingProxy, release: Release, request: pytest.FixtureRequest) -> Release:
    """The same repository, through the proxy."""
    return replace(release, target=named(proxy.address, request))


def test_a_release_and_a_rollback_wait_until_their_writes_are_shown(
    behind: Release, release: Release, repository: Repository, proxy: LaggingProxy
) -> None:
    first, second = behind.push("1"), behind.push("2")
    behind.promote(first)
    assert behind.promote(second).previous == first
    assert release.custom() == second
    assert behind.rollback().digest == first == release.custom()
    assert proxy.stale > 5
    ends = record_tags.outcomes(repository.tags())
    assert list(ends.values()) == [records.DONE] * 3


def test_a_promotion_is_not_planned_from_a_stale_read(
    behind: Release, release: Release, repository: Repository, proxy: LaggingProxy
) -> None:
    """Another machine promoted a moment ago; the list shows it, the tag does not."""
    first, second, third = (release.push(x) for x in "123")
    release.promote(first)
    behind.promote(second)
    with open_repository(behind.target) as stale:
        proxy._before[repository.name.partition("/")[2], "custom"] = (
            first, time.monotonic() + LAG,
        )  # fmt: skip
        assert tag_state(Journal(stale), "custom").present == second
    assert behind.promote(third).previous == second
    assert release.rollback().digest == second


def test_a_move_that_another_run_shows_too_late_is_a_conflict_not_a_wrong_image(
    behind: Release, release: Release, repository: Repository, proxy: LaggingProxy
) -> None:
    """Tag and list are both stale: the plan is checked again before the tag moves."""
    first, second, third = (release.push(x) for x in "123")
    release.promote(first)
    before = set(repository.tags())
    release.promote(second)
    path = repository.name.partition("/")[2]
    until = time.monotonic() + LAG
    proxy._before = {(path, tag): (None, until) for tag in set(repository.tags()) - before}
    proxy._before[path, "custom"] = (first, until)
    with pytest.raises(PromotionConflictError, match="now names"):
        behind.promote(third)
    assert release.custom() == second
    assert release.rollback().digest == first


@pytest.mark.parametrize("seed", SEEDS)
def test_the_whole_way_over_a_registry_that_lags(
    release: Release,
    served: LocalRegistry,
    repository: Repository,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Each write is shown some other time later; nobody but the proxy knows when."""
    monkeypatch.setattr(read_back, "LAG", 3 * LONGEST)
    monkeypatch.setattr(lease, "PROPAGATION", 1.5 * LONGEST)
    monkeypatch.setattr(read_back._Longest, "seconds", 0.0)
    old = [
        release.push(str(number), tag=f"2026010{number}-abcdef0-000000{number}")
        for number in range(3)
    ]
    with LaggingProxy.between(served.address, 0, LONGEST, seed) as proxy:
        behind = replace(release, target=named(proxy.address, request))
        first, second = behind.push("a"), behind.push("b")
        assert behind.push("a") == first, "a push that is repeated finds what it pushed"
        behind.promote(first)
        assert behind.promote(second).previous == first
        assert behind.promote(second).skipped
        assert behind.rollback().digest == first
        assert behind.promote(second).previous == first
        with open_repository(behind.target) as seen:
            history = Journal(seen, behind.folder / "journal")
            assert history.read()[-1].record.digest == second
            assert status.tag_status(history) == [f"custom names {second}"]
            store = image_store.store_of(seen)
            plan = retention.plan_cleanup(history, store, 0, set())
            assert {x.digest for x in plan.delete} == set(old)
            retention.apply(history, store, plan)
        assert proxy.stale > 0
    assert release.custom() == second
    ends = record_tags.outcomes(repository.tags())
    assert list(ends.values()) == [records.DONE] * 4
    assert [repository.digest(x) for x in (first, second)] == [first, second]
    assert [repository.digest(x) for x in old] == [None] * len(old)
