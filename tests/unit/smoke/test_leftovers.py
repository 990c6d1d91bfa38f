"""Containers that may be removed: of a dead process here, or expired."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest
from docker.errors import APIError

from higgs_image.smoke import leftovers
from higgs_image.smoke.leftovers import FOLDER, LIFETIME, MARK, OWNER, owner_labels


def test_only_a_dead_process_of_this_machine_abandons_a_container(tmp_path: Path) -> None:
    mine = owner_labels(tmp_path, lifetime=60)[OWNER]
    place, _, started = mine.split()
    assert not leftovers.is_abandoned(mine)
    assert not leftovers.is_abandoned("")
    with subprocess.Popen(["true"]) as gone:
        pass
    assert leftovers.is_abandoned(f"{place} {gone.pid} {started}")
    assert leftovers.is_abandoned(f"{place} {os.getpid()} {int(started) - 1}")


def test_processes_of_other_machines_and_containers_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two machines may have one name, and two containers of a machine the same process ids."""
    with subprocess.Popen(["true"]) as gone:
        pass
    boot, _, namespace = leftovers._place().partition(":")
    for place in (f"other-boot:{namespace}", f"{boot}:pid:[1]", "unknown"):
        assert not leftovers.is_abandoned(f"{place} {gone.pid} 1")
    monkeypatch.setattr(leftovers, "_place", lambda: "unknown")
    assert not leftovers.is_abandoned(f"unknown {gone.pid} 1")


@pytest.mark.parametrize(
    ("lifetime", "created", "now", "expired"),
    [
        ("60", "2026-11-27T00:00:00.123456789Z", "2026-11-27T00:01:00Z", False),
        ("60", "2026-11-27T00:00:00.123456789Z", "2026-11-27T00:01:01Z", True),
        ("60", "2026-11-27T00:00:00Z", "2026-11-27T01:01:01.5+01:00", True),
        ("60", "2026-11-27T00:00:00Z", "2026-11-27T01:00:30.5+01:00", False),
        ("", "2026-11-26T00:00:00Z", "2026-11-27T00:01:00Z", False),
        ("soon", "2026-11-26T00:00:00Z", "2026-11-27T00:01:00Z", False),
        ("60", "2026-11-26T00:00:00Z", "", False),
    ],
)
def test_a_container_expires_by_the_engines_clock(
    lifetime: str, created: str, now: str, expired: bool
) -> None:
    assert leftovers.is_expired(lifetime, created, now) is expired


def test_labels(tmp_path: Path) -> None:
    labels = owner_labels(tmp_path, lifetime=61.5, keep=True)
    assert labels[MARK] == "keep" and labels[FOLDER] == str(tmp_path) and labels[LIFETIME] == "62"
    assert owner_labels(tmp_path, lifetime=1)[MARK] == "run"


@pytest.mark.parametrize("status", [409, 500])
def test_a_container_that_another_run_removes_is_waited_for(status: int) -> None:
    """Two runs that clear up at once: the engine refuses the second removal with 409."""
    container = Mock()
    container.remove.side_effect = APIError("no", Mock(status_code=status))
    expected = contextlib.nullcontext() if status == 409 else pytest.raises(APIError)
    with expected:
        leftovers._remove([container])
    assert container.wait.called == (status == 409)
