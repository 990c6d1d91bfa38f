"""What is known of the project's own checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from higgs_image import checkout
from tests.unit.conftest import git


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with one commit that its remote has, too."""
    remote, clone = tmp_path / "remote.git", tmp_path / "clone"
    subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(remote), str(clone)], check=True)
    (clone / "a").write_text("1")
    git(clone, "add", "a")
    git(clone, "commit", "--quiet", "--message", "first")
    git(clone, "push", "--quiet", "origin", "HEAD:main")
    return clone


def test_a_commit_that_only_this_clone_has(clone: Path) -> None:
    assert checkout.is_published(clone)
    (clone / "a").write_text("2")
    git(clone, "commit", "--quiet", "--all", "--message", "second")
    assert not checkout.is_published(clone)
    git(clone, "push", "--quiet", "origin", "HEAD:main")
    assert checkout.is_published(clone)
    assert not checkout.is_published(clone.parent)


def test_a_shallow_clone_with_a_detached_head(clone: Path, tmp_path: Path) -> None:
    """As actions/checkout leaves it."""
    shallow = tmp_path / "shallow"
    subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", "--branch", "main",
         f"file://{tmp_path / 'remote.git'}", str(shallow)], check=True,
    )  # fmt: skip
    git(shallow, "checkout", "--quiet", "--detach")
    state = checkout.inspect(shallow)
    assert state.clean and state.commit == git(clone, "rev-parse", "HEAD")
    assert checkout.is_published(shallow)
    (shallow / "stray").write_text("x")
    assert checkout.inspect(shallow).changed == ("stray",)
