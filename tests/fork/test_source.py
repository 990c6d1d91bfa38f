"""The real fork and submodule, fetched into a folder of their own and held against git itself."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from higgs_image import lockfile
from higgs_image.build import render, source
from higgs_image.build.overrides import Overrides
from higgs_image.build.patches import apply
from higgs_image.errors import KernelsChangedError, SourceError
from higgs_image.git_objects import git_tree_ids
from higgs_image.lockfile import Lock
from higgs_image.workspace import PROJECT, Workspace

pytestmark = pytest.mark.fork


def git(repo: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", repo, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def pinned() -> Lock:
    """The real lock; skips where the fork's host does not answer."""
    pinned = lockfile.load(PROJECT / "versions.lock")
    for url in (pinned.fork.url, pinned.submodule.url):
        try:
            asked = subprocess.run(
                ["git", "ls-remote", url, "HEAD"], capture_output=True, text=True, timeout=30,
                env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            pytest.skip(f"{url} does not answer within 30 s")
        if asked.returncode != 0:
            pytest.skip(f"{url} cannot be reached: {asked.stderr.strip()}")
    return pinned


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The real lock, in a workspace where nothing was fetched yet."""
    default = Workspace.default()
    return Workspace(tmp_path_factory.mktemp("build"), default.lock_file, default.layers_file)


@pytest.fixture(scope="module")
def fetched(pinned: Lock, fresh: Workspace) -> source.Source:
    return source.ensure(fresh, pinned)


def test_exactly_the_pinned_commits_without_history(pinned: Lock, fetched: source.Source) -> None:
    assert fetched.fetched == ("fork", "submodule")
    for repo, commit, tree in (
        (fetched.fork, pinned.fork.commit, pinned.fork.tree),
        (fetched.submodule, pinned.submodule.commit, pinned.submodule.tree),
    ):
        assert git(repo, "rev-parse", "HEAD") == commit
        assert git(repo, "rev-parse", "HEAD^{tree}") == tree
        assert git(repo, "rev-list", "--count", "--all", "HEAD") == "1"
        assert git(repo, "status", "--porcelain", "--ignored") == ""
    date = git(fetched.fork, "show", "--no-patch", "--format=%ct")
    assert int(date) == pinned.fork.epoch


def test_ids_of_every_file_and_folder_are_gits(pinned: Lock, fetched: source.Source) -> None:
    listed = git(fetched.fork, "ls-tree", "-r", "-t", "-z", "HEAD").split("\0")
    by_git = {e.split("\t", 1)[1]: e.split()[2] for e in listed if e}
    by_us = git_tree_ids(fetched.fork, {pinned.submodule.path: pinned.submodule.commit})
    assert len(by_git) > 2000
    assert by_us == by_git | {"": pinned.fork.tree}


def test_no_kernel_differs_from_the_base(pinned: Lock, fetched: source.Source) -> None:
    for name, tree in pinned.vllm.trees.items():
        assert git(fetched.fork, "rev-parse", f"HEAD:{name}") == tree


def test_second_run_is_offline_and_quick(
    pinned: Lock, fetched: source.Source, fresh: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "url.http://127.0.0.1:9/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    began = time.monotonic()
    assert source.ensure(fresh, pinned).fetched == ()
    assert time.monotonic() - began < 20


def test_one_changed_byte_is_repaired(
    pinned: Lock, fetched: source.Source, fresh: Workspace
) -> None:
    path = fetched.submodule / "boson_multimodal" / "__init__.py"
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    assert source.ensure(fresh, pinned).fetched == ("submodule",)
    assert path.read_bytes() == before


def test_another_base_is_refused(pinned: Lock, fetched: source.Source, tmp_path: Path) -> None:
    """As if the wheel were of a release with other kernels."""
    other = tmp_path / "versions.lock"
    csrc = pinned.vllm.trees["csrc"]
    other.write_text(pinned.path.read_text().replace(csrc, "0" * 40))
    workspace = Workspace(fetched.fork.parent.parent, other, Workspace.default().layers_file)
    with pytest.raises(KernelsChangedError, match="changes csrc"):
        source.ensure(workspace, lockfile.load(other))


def test_a_missing_commit_is_named(pinned: Lock, tmp_path: Path) -> None:
    other = tmp_path / "versions.lock"
    other.write_text(pinned.path.read_text().replace(pinned.fork.commit, "0" * 39 + "1"))
    workspace = Workspace(tmp_path / "build", other, Workspace.default().layers_file)
    with pytest.raises(SourceError, match="has no commit 0000"):
        source.ensure(workspace, lockfile.load(other))
    assert not list((tmp_path / "build/source").glob("*"))


def test_context_of_the_real_fork(pinned: Lock, fetched: source.Source, fresh: Workspace) -> None:
    patched = apply.ensure(fresh, pinned, fetched)
    files = render.compute(fresh, pinned, fetched, patched, Overrides())
    assert files == render.compute(fresh, pinned, fetched, patched, Overrides())
    site = f"opt/venv/lib/python{pinned.python.version}/site-packages"
    for name in (
        f"layers/code/{site}/vllm/entrypoints/bosonai/api_server.py",
        f"layers/code/{site}/boson_multimodal/audio_processing/higgs_audio_tokenizer.py",
        "layers/torch/requirements.txt",
    ):
        assert name in files, name
    assert not any(name.endswith((".cu", ".so", ".pyc")) for name in files)
    assert sum(len(data) for data, _ in files.values()) < 60e6
