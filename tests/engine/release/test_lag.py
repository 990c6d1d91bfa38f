"""Releases in a registry that shows a write only some time later, as ghcr.io does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from higgs_image.errors import PromotionConflictError
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.oci import read_back
from higgs_image.oci.artifacts import Repository, open_repository
from higgs_image.release import lease, record_tags, records
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import tag_state
from tests.support.lagging_proxy import LaggingProxy

from .conftest import Release, named

pytestmark = pytest.mark.engine

LAG = 1.5


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
            first, __import__("time").monotonic() + LAG,
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
    import time

    path = repository.name.partition("/")[2]
    until = time.monotonic() + LAG
    proxy._before = {(path, tag): (None, until) for tag in set(repository.tags()) - before}
    proxy._before[path, "custom"] = (first, until)
    with pytest.raises(PromotionConflictError, match="now names"):
        behind.promote(third)
    assert release.custom() == second
    assert release.rollback().digest == first
