"""Digests, above all git's own ids computed from files: compared with what git says."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from higgs_image.files import files_below, sha256_file, tree_sha256
from higgs_image.git_objects import git_tree_ids
from tests.unit.conftest import commit_all, git, write


def init(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    git(path, "init", "--quiet")
    return path


def ids_by_git(repo: Path) -> dict[str, str]:
    listed = git(repo, "ls-tree", "-r", "-t", "-z", "HEAD")
    ids = {"": git(repo, "rev-parse", "HEAD^{tree}")}
    for entry in filter(None, listed.split("\0")):
        meta, path = entry.split("\t", 1)
        ids[path] = meta.split()[2]
    return ids


def test_ids_are_those_of_git(tmp_path: Path) -> None:
    repo = init(tmp_path / "repo")
    write(repo, NAMES)
    (repo / "hollow/er/est").mkdir(parents=True)
    (repo / "bin").mkdir()
    (repo / "bin/link").symlink_to("../run.sh")
    (repo / "bin/nowhere").symlink_to("/no-such-place/ü")
    (repo / "folder-link").symlink_to("bin")
    (repo / "suid").write_text("s")
    (repo / "suid").chmod(0o4700)
    commit_all(repo)
    sub = "1" * 40
    paths = ["sub/mod", "a.sub", "lib"]
    for path in paths:
        git(repo, "update-index", "--add", "--cacheinfo", f"160000,{sub},{path}")
        (repo / path).mkdir(parents=True)
    git(repo, "commit", "--quiet", "--message", "submodules")
    assert git_tree_ids(repo, dict.fromkeys(paths, sub)) == ids_by_git(repo)


NAMES = {
    "a/b/c/d": "4", "a.b/x": "1", "a-b": "2", "a0": "3", "ab": "5", "a!": "6", "Z": "7",
    "lib.py": "8", "lib-x": "9", "lib0": "10", "run.sh": "#!/bin/sh\n", "ü ñ 文/é.txt": "ä",
    "new\nline": "n", 'quo"te\\': "q", ".gitignore": "*\n", "vllm/.gitkeep": "",
    "x.git/config": "c", "empty": "", "crlf": "a\r\nb\n", "big": "x" * 2_000_000,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_ids_of_random_trees(tmp_path: Path, seed: int) -> None:
    """Names from an alphabet that sorts on both sides of '/', nested at random."""
    dice = random.Random(seed)
    repo = init(tmp_path / "repo")

    def fill(folder: Path, depth: int) -> None:
        for _ in range(dice.randint(0, 6)):
            path = folder / "".join(dice.choices("ab!-.0Aé~", k=dice.randint(1, 3)))
            if path.exists() or path.is_symlink() or path.name in (".", ".."):
                continue
            kind = dice.random()
            if kind < 0.45 and depth < 4:
                path.mkdir()
                fill(path, depth + 1)
            elif kind < 0.55:
                path.symlink_to(dice.choice(["x", "..", "a/b", "/"]))
            else:
                path.write_bytes(dice.randbytes(dice.randint(0, 50)))
                path.chmod(dice.choice([0o644, 0o755, 0o600, 0o700, 0o655]))

    fill(repo, 0)
    (repo / "at least one").touch()
    commit_all(repo)
    assert git_tree_ids(repo, {}) == ids_by_git(repo)


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    repo = init(tmp_path / "repo")
    with open(os.fsencode(repo) + b"/\xff\xfe", "wb") as file:  # noqa: PTH123
        file.write(b"x")
    commit_all(repo)
    assert git_tree_ids(repo, {})[""] == git(repo, "rev-parse", "HEAD^{tree}")


def test_no_files_no_id(tmp_path: Path) -> None:
    assert git_tree_ids(init(tmp_path / "repo"), {}) == {"": ""}


def test_a_filled_or_replaced_submodule_folder_is_not_taken_for_the_submodule(
    tmp_path: Path,
) -> None:
    repo = init(tmp_path / "repo")
    (repo / "sub").mkdir()
    write(repo, {"x": ""})
    good = git_tree_ids(repo, {"sub": "1" * 40})
    assert good["sub"] == "1" * 40
    write(repo, {"sub/file": ""})
    assert git_tree_ids(repo, {"sub": "1" * 40})[""] != good[""]
    (repo / "sub/file").unlink()
    (repo / "sub").rmdir()
    assert "sub" not in git_tree_ids(repo, {"sub": "1" * 40})


def test_special_file_is_an_error_and_does_not_block(tmp_path: Path) -> None:
    repo = init(tmp_path / "repo")
    os.mkfifo(repo / "pipe")
    with pytest.raises(OSError, match="neither a file nor a folder"):
        git_tree_ids(repo, {})


# --- trees of ours


def recipe(root: Path) -> Path:
    write(root, {"docker/a.py": "a", "docker/sub/run.sh": "b", "t/x.j2": "c", "single": "d"})
    return root


def test_tree_hash_depends_on_names_modes_and_contents_only(tmp_path: Path) -> None:
    def hashed(root: Path) -> str:
        return tree_sha256([root / "t", root / "docker", root / "single"], root)

    one, two = recipe(tmp_path / "one"), recipe(tmp_path / "two" / "deeper")
    wanted = hashed(one)
    os.utime(two / "single", (1, 1))
    (two / "docker/a.py").chmod(0o650)
    write(two, {"docker/__pycache__/a.cpython-311.pyc": "bytecode"})
    assert hashed(two) == wanted
    for change in (
        lambda: (two / "docker/a.py").write_text("A"),
        lambda: (two / "docker/a.py").chmod(0o755),
        lambda: (two / "docker/sub/run.sh").rename(two / "docker/run.sh"),
        lambda: write(two, {"t/new": ""}),
        lambda: (two / "single").unlink() or (two / "single").symlink_to("t/x.j2"),
        lambda: (two / "t/link").symlink_to("/no-such-place"),
        lambda: (two / "t/folder").symlink_to("../docker"),
    ):
        before = hashed(two)
        change()
        assert hashed(two) != before, change


def test_tree_hash_does_not_depend_on_the_order_of_roots(tmp_path: Path) -> None:
    root = recipe(tmp_path)
    assert tree_sha256([root / "t", root / "docker"], root) == tree_sha256(
        [root / "docker", root / "t"], root
    )


def test_files_below_are_sorted_and_complete(tmp_path: Path) -> None:
    root = recipe(tmp_path)
    (root / "t/folder-link").symlink_to("../docker")
    (root / "__pycache__").mkdir()
    (root / "__pycache__/x.pyc").touch()
    assert [p.relative_to(root).as_posix() for p in files_below(root) if "home" not in p.parts] == [
        "docker/a.py", "docker/sub/run.sh", "single", "t/folder-link", "t/x.j2",
    ]  # fmt: skip


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
