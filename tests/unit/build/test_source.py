"""Stage `source` against real git repositories: what it fetches, notices and repairs."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from higgs_image.build import remote, source
from higgs_image.errors import (
    HiggsError,
    KernelsChangedError,
    NetworkError,
    SourceError,
    ToolMissingError,
)
from tests.unit.conftest import (
    FORK_FILES,
    HOST,
    SUBMODULE,
    SUBMODULE_FILES,
    Project,
    commit_all,
    copy_project,
    git,
    isolate_git,
    make_project,
    write,
)


def ensure(project: Project) -> source.Source:
    return source.ensure(project.workspace, project.load())


def refused(project: Project, kind: type[HiggsError], *parts: str) -> HiggsError:
    with pytest.raises(HiggsError) as caught:
        ensure(project)
    assert type(caught.value) is kind
    for part in parts:
        assert part in caught.value.message
    assert caught.value.hint
    assert not list(project.workspace.source.glob(".*.new-*")), "a half-fetched folder was left"
    return caught.value


@pytest.fixture(scope="module")
def checkouts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The upstream repositories and what is fetched from them, made once."""
    root = tmp_path_factory.mktemp("fetched")
    with pytest.MonkeyPatch.context() as patch:
        isolate_git(root, patch)
        project = make_project(root, patch)
        ensure(project)
        yield root


@pytest.fixture
def fetched(checkouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose sources were fetched already."""
    copy_project(checkouts, tmp_path)
    return make_project(tmp_path, monkeypatch)


# --- fetching


def test_pinned_commits_are_fetched_without_history(project: Project) -> None:
    got = ensure(project)
    assert got.fetched == ("fork", "submodule")
    assert git(got.fork, "rev-parse", "HEAD") == project.upstream.commit
    assert git(got.submodule, "rev-parse", "HEAD") == project.upstream.submodule_commit
    for repo in (got.fork, got.submodule):
        assert git(repo, "rev-list", "--all", "HEAD", "--count") == "1"
        assert git(repo, "status", "--porcelain") == ""
        assert git(repo, "fsck", "--strict") == ""
    for name, content in FORK_FILES.items():
        assert (got.fork / name).read_text() == content
    for name, content in SUBMODULE_FILES.items():
        assert (got.submodule / name).read_text() == content
    assert os.access(got.fork / "vllm/tools/run.sh", os.X_OK)


def test_a_commit_that_no_branch_holds_can_be_pinned(project: Project) -> None:
    pinned = project.upstream.commit
    git(project.upstream.fork, "checkout", "--quiet", "--orphan", "other")
    git(project.upstream.fork, "rm", "-rq", "--cached", ".")
    commit_all(project.upstream.fork, "rewritten")
    git(project.upstream.fork, "branch", "--delete", "--force", "main")
    assert git(ensure(project).fork, "rev-parse", "HEAD") == pinned


def test_a_git_mirror_of_the_person_is_used(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GIT_CONFIG_COUNT")
    home = Path(os.environ["HOME"])
    (home / ".gitconfig").write_text(
        f'[url "{project.upstream.root}/"]\n\tinsteadOf = {HOST}\n[core]\n\tautocrlf = true\n'
    )
    assert ensure(project).fetched == ("fork", "submodule")


def test_attributes_and_personal_settings_do_not_change_a_byte(project: Project) -> None:
    """autocrlf, eol, ident and filters would alter files; the tree proves the bytes."""
    files = {
        ".gitattributes": "*.txt text eol=crlf\n*.id ident\n*.up filter=up\n",
        "vllm/a.txt": "one\ntwo\n",
        "vllm/b.id": "$Id$\n",
        "vllm/c.up": "lower\n",
    }
    project.upstream.change(files)
    project.pin()
    home = Path(os.environ["HOME"])
    (home / ".gitconfig").write_text(
        '[core]\n\tautocrlf = true\n\teol = crlf\n[filter "up"]\n\tsmudge = tr a-z A-Z\n'
        "[init]\n\tdefaultBranch = x\n[advice]\n\tdetachedHead = true\n"
    )
    fork = ensure(project).fork
    assert {name: (fork / name).read_bytes().decode() for name in files} == files


def test_a_git_hook_may_run_it(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook's GIT_DIR and GIT_INDEX_FILE name the person's own repository: never touch that."""
    own = tmp_path / "own"
    own.mkdir()
    git(own, "init", "--quiet")
    write(own, {"mine.txt": "mine\n"})
    head = commit_all(own)
    monkeypatch.setenv("GIT_DIR", str(own / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(own))
    monkeypatch.setenv("GIT_INDEX_FILE", str(own / ".git/index"))
    got = ensure(project)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert git(own, "rev-parse", "HEAD") == head
    assert git(own, "status", "--porcelain") == ""
    assert git(own, "remote") == ""
    assert git(got.fork, "rev-parse", "HEAD") == project.upstream.commit


def test_second_run_works_offline_and_fetches_nothing(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    first = ensure(project)
    before = first.fork.stat().st_ino
    shutil.rmtree(project.upstream.root)
    caplog.set_level(logging.INFO)
    again = ensure(project)
    assert again.fetched == ()
    assert again.fork.stat().st_ino == before
    assert "fork" in caplog.text
    assert "verified" in caplog.text
    assert "no kernel changed" in caplog.text


# --- what the lock says wrongly


def test_wrong_commit_is_named(project: Project) -> None:
    project.replace(project.upstream.commit, "1" * 40)
    refused(project, SourceError, "1" * 40, f"{HOST}fork.git")


def test_a_commit_that_is_a_tag_object_or_tree_is_refused(project: Project) -> None:
    project.replace(
        f'commit = "{project.upstream.commit}"', f'commit = "{project.upstream.tree()}"'
    )
    refused(project, SourceError, project.upstream.tree(), "cannot be checked out")


def test_wrong_tree_is_named_and_nothing_is_kept(project: Project) -> None:
    project.replace(project.upstream.tree(), "2" * 40)
    error = refused(project, SourceError, project.upstream.tree(), "2" * 40)
    assert "tree" in error.hint
    assert not (project.workspace.source / "fork").exists()


def test_wrong_submodule_tree_is_named(project: Project) -> None:
    tree = project.upstream.tree(repo=project.upstream.submodule)
    project.replace(tree, "2" * 40)
    refused(project, SourceError, tree, "audio.git")


def test_missing_submodule(project: Project) -> None:
    git(project.upstream.fork, "rm", "--quiet", "--cached", SUBMODULE)
    project.upstream.change({"README.md": "no submodule\n"})
    project.pin()
    refused(project, SourceError, "has no submodule", SUBMODULE)


def test_folder_instead_of_submodule(project: Project) -> None:
    git(project.upstream.fork, "rm", "--quiet", "--cached", SUBMODULE)
    project.upstream.change({f"{SUBMODULE}/file.py": "vendored\n"})
    project.pin()
    refused(project, SourceError, "has no submodule", SUBMODULE)


def test_submodule_at_another_commit(project: Project) -> None:
    project.upstream.record_submodule("3" * 40)
    project.pin()
    refused(project, SourceError, "3" * 40, project.upstream.submodule_commit)


def test_submodule_from_another_url(project: Project) -> None:
    project.upstream.record_submodule(project.upstream.submodule_commit, url="evil.git")
    project.pin()
    refused(project, SourceError, f"{HOST}evil.git", f"{HOST}audio.git")


def test_the_url_of_another_submodule_does_not_count(project: Project) -> None:
    """Two submodules: what is compared is the URL recorded for this very path."""
    modules = (
        f'[submodule "b"]\n\tpath = other\n\turl = {HOST}audio.git\n'
        f'[submodule "a"]\n\tpath = {SUBMODULE}\n\turl = {HOST}evil.git\n'
    )
    project.upstream.change({".gitmodules": modules})
    project.pin()
    refused(project, SourceError, f"{HOST}evil.git")


@pytest.mark.parametrize("modules", [None, "", "garbage [\n", '[submodule "x"]\n\tpath = x\n'])
def test_submodule_without_url(project: Project, modules: str | None) -> None:
    if modules is None:
        git(project.upstream.fork, "rm", "--quiet", "--cached", ".gitmodules")
        project.upstream.change({"README.md": "no .gitmodules\n"})
    else:
        project.upstream.change({".gitmodules": modules})
    project.pin()
    refused(project, SourceError, ".gitmodules")


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"csrc/kernel.cu": "__global__ void g();\n"}, "csrc"),
        ({"csrc/deep/er/new.cu": "\n"}, "csrc"),
        ({"cmake/utils.cmake": "# other\n"}, "cmake"),
        ({"CMakeLists.txt": "project(other)\n"}, "CMakeLists.txt"),
    ],
)
def test_changed_kernels(project: Project, changed: dict[str, str], name: str) -> None:
    project.upstream.change(changed)
    trees = {x: project.upstream.tree(f"HEAD~:{x}") for x in ("csrc", "cmake", "CMakeLists.txt")}
    project.pin()
    now = project.upstream.tree(f"HEAD:{name}")
    project.replace(f'"{name}" = "{now}"', f'"{name}" = "{trees[name]}"')
    for _ in range(2):  # fetched, then verified
        error = refused(project, KernelsChangedError, f"changes {name} against v0.8.3")
        assert error.exit_code == 12


def test_removed_kernels(project: Project) -> None:
    project.replace('"cmake" =', '"gone" =')
    refused(project, KernelsChangedError, "changes gone")


# --- the git host


def test_a_host_that_is_not_a_repository_is_named(project: Project) -> None:
    shutil.rmtree(project.upstream.fork)
    refused(project, SourceError, f"{HOST}fork.git", "is not a git repository")


def test_a_host_that_does_not_answer_is_transient(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "url.http://127.0.0.1:9/.insteadOf")
    error = refused(project, NetworkError, f"{HOST}fork.git", "fork")
    assert error.transient
    assert "insteadOf" in error.hint


@pytest.mark.parametrize(
    ("stderr", "kind", "part"),
    [
        # recorded from git 2.39
        ("fatal: remote error: upload-pack: not our ref 1111", SourceError, "has no commit"),
        (
            "error: Server does not allow request for unadvertised object 1111",
            SourceError,
            "has no commit",
        ),
        ("fatal: couldn't find remote ref 1111", SourceError, "has no commit"),
        (
            "fatal: could not read Username for 'https://github.com': terminal prompts disabled",
            SourceError,
            "asks for a login",
        ),
        (
            "remote: Repository not found.\nfatal: repository 'https://github.com/a/b/' not found",
            SourceError,
            "is not a git repository (fatal: repository",
        ),
        (
            "fatal: '/x' does not appear to be a git repository\n"
            "fatal: Could not read from remote repository.\n\n"
            "Please make sure you have the correct access rights\nand the repository exists.",
            SourceError,
            "'/x' does not appear",
        ),
        (
            "fatal: unable to access 'https://github.com/a/b/': Could not resolve host: github.com",
            NetworkError,
            "Could not resolve host",
        ),
        (
            "fatal: unable to access 'https://127.0.0.1:9/': Failed to connect to 127.0.0.1 port 9 "
            "after 0 ms: Couldn't connect to server",
            NetworkError,
            "Failed to connect",
        ),
        (
            "fatal: unable to access 'https://github.com/a/b/': The requested URL returned error: "
            "503",
            NetworkError,
            "503",
        ),
        (
            "fatal: unable to access 'https://github.com/a/b/': The requested URL returned error: "
            "403",
            SourceError,
            "403",
        ),
        (
            "error: RPC failed; curl 56 GnuTLS recv error (-54): Error in the pull function.\n"
            "fatal: early EOF\nfatal: fetch-pack: invalid index-pack output",
            NetworkError,
            "RPC failed",
        ),
    ],
)
def test_messages_of_git_become_errors(stderr: str, kind: type, part: str) -> None:
    error = remote.explain_git("fork", f"{HOST}fork.git", "1" * 40, f"\n  stderr: '{stderr}'")
    assert type(error) is kind
    assert part in error.message
    assert "\n" not in error.message
    assert error.hint


def test_full_disk_while_fetching() -> None:
    text = "fatal: write error: No space left on device\nfatal: index-pack failed"
    assert remote.explain_git("fork", "u", "c", text).exit_code == 22


def test_without_git(project: Project) -> None:
    """GitPython fails at its import without git."""
    script = (
        "import sys; from pathlib import Path; from higgs_image import lockfile\n"
        "from higgs_image.build import source\n"
        "from higgs_image.workspace import Workspace; from higgs_image.errors import HiggsError\n"
        "w = Workspace(Path(sys.argv[1]), Path(sys.argv[2]), Path('x'))\n"
        "try: source.ensure(w, lockfile.load(w.lock_file))\n"
        "except HiggsError as error: print(type(error).__name__, error.message, error.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, project.workspace.build, project.workspace.lock_file],
        env={"PATH": "/no-such-place", "PYTHONPATH": str(project.workspace.root)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"{ToolMissingError.__name__} git is not installed"), done
    assert "apt-get install git" in done.stdout


# --- tampering


def edit(fork: Path) -> None:
    (fork / "vllm/entrypoints/bosonai/api_server.py").write_text("print('other')\n")


def edit_unnoticeably(fork: Path) -> None:
    path = fork / "vllm/entrypoints/bosonai/api_server.py"
    before = path.stat()
    path.write_text("print('SERVER')\n")
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def assume_unchanged(fork: Path) -> None:
    git(fork, "update-index", "--assume-unchanged", "README.md")
    (fork / "README.md").write_text("other\n")
    assert git(fork, "status", "--porcelain") == ""


def extra_file(fork: Path) -> None:
    (fork / "vllm/extra.py").write_text("")


def ignored_file(fork: Path) -> None:
    write(fork, {"ignored/x.py": "", "vllm/x.log": ""})
    assert git(fork, "status", "--porcelain") == ""


def removed_file(fork: Path) -> None:
    (fork / "README.md").unlink()


def removed_folder(fork: Path) -> None:
    shutil.rmtree(fork / "csrc")


def renamed_file(fork: Path) -> None:
    (fork / "README.md").rename(fork / "README.rst")


def executable(fork: Path) -> None:
    (fork / "README.md").chmod(0o755)


def not_executable(fork: Path) -> None:
    (fork / "vllm/tools/run.sh").chmod(0o644)


def link_instead_of_file(fork: Path) -> None:
    (fork / "README.md").rename(fork.parent / "elsewhere")
    (fork / "README.md").symlink_to(fork.parent / "elsewhere")


def pipe_instead_of_file(fork: Path) -> None:
    (fork / "README.md").unlink()
    os.mkfifo(fork / "README.md")


def file_instead_of_submodule(fork: Path) -> None:
    (fork / SUBMODULE).rmdir()
    (fork / SUBMODULE).write_text("x")


def file_in_submodule_folder(fork: Path) -> None:
    (fork / SUBMODULE / "x.py").write_text("x")


def moved_head(fork: Path) -> None:
    git(fork, "commit", "--quiet", "--allow-empty", "--message", "moved")


def head_on_no_commit(fork: Path) -> None:
    git(fork, "symbolic-ref", "HEAD", "refs/heads/none")


def garbage_head(fork: Path) -> None:
    (fork / ".git/HEAD").write_bytes(b"\xff\x00garbage")


def empty_head(fork: Path) -> None:
    (fork / ".git/HEAD").write_text("")


def no_head(fork: Path) -> None:
    (fork / ".git/HEAD").unlink()


def garbage_config(fork: Path) -> None:
    (fork / ".git/config").write_text("garbage\n[[[")


def no_objects(fork: Path) -> None:
    shutil.rmtree(fork / ".git/objects")


def no_git_folder(fork: Path) -> None:
    shutil.rmtree(fork / ".git")


def git_file(fork: Path) -> None:
    shutil.rmtree(fork / ".git")
    (fork / ".git").write_text("gitdir: /no-such-place\n")


def emptied(fork: Path) -> None:
    shutil.rmtree(fork)
    fork.mkdir()


def file_instead_of_checkout(fork: Path) -> None:
    shutil.rmtree(fork)
    fork.write_text("x")


def link_to_nowhere(fork: Path) -> None:
    shutil.rmtree(fork)
    fork.symlink_to("/no-such-place")


def link_to_folder(fork: Path) -> None:
    moved = fork.with_name("moved")
    shutil.rmtree(moved, ignore_errors=True)
    fork.rename(moved)
    edit(moved)
    fork.symlink_to(moved)


TAMPERING = [
    edit, edit_unnoticeably, assume_unchanged, extra_file, ignored_file, removed_file,
    removed_folder, renamed_file, executable, not_executable, link_instead_of_file,
    pipe_instead_of_file, file_instead_of_submodule, file_in_submodule_folder, moved_head,
    head_on_no_commit, garbage_head, empty_head, no_head, garbage_config, no_objects,
    no_git_folder, git_file, emptied, file_instead_of_checkout, link_to_nowhere, link_to_folder,
]  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERING)
def test_tampering_is_noticed(fetched: Project, tamper: Callable[[Path], None]) -> None:
    tamper(fetched.workspace.source / "fork")
    shutil.rmtree(fetched.upstream.root)
    with pytest.raises(SourceError, match="is not a git repository"):
        ensure(fetched)  # it wants to fetch again, which fails here to save time


@pytest.mark.parametrize(
    "tamper",
    [
        edit,
        no_git_folder,
        garbage_config,
        file_instead_of_checkout,
        link_to_nowhere,
        link_to_folder,
    ],
)
def test_tampered_checkout_is_replaced(fetched: Project, tamper: Callable[[Path], None]) -> None:
    fork = fetched.workspace.source / "fork"
    for _ in range(2):  # and nothing that the first repair left behind hinders the second
        tamper(fork)
        assert ensure(fetched).fetched == ("fork",)
        assert not fork.is_symlink()
        assert git(fork, "status", "--porcelain", "--ignored") == ""
        assert git(fork, "rev-parse", "HEAD^{tree}") == fetched.upstream.tree()
    assert ensure(fetched).fetched == ()


def test_tampering_with_the_submodule_is_noticed(project: Project) -> None:
    submodule = ensure(project).submodule
    (submodule / "boson_multimodal/audio_processing/codec.py").write_text("codec = 2\n")
    assert ensure(project).fetched == ("submodule",)
    assert "codec = 1" in (submodule / "boson_multimodal/audio_processing/codec.py").read_text()


@pytest.mark.parametrize("name", ["index", "shallow", "FETCH_HEAD"])
def test_files_that_git_ignores_are_verified_too(project: Project, name: str) -> None:
    """The files are proven without git's index: damage there needs no network to repair."""
    fork = ensure(project).fork
    (fork / ".git" / name).write_bytes(b"\0")
    shutil.rmtree(project.upstream.root)
    assert ensure(project).fetched == ()


def test_moved_pin_replaces_the_checkout(project: Project) -> None:
    ensure(project)
    project.upstream.change({"README.md": "next\n"})
    project.pin()
    got = ensure(project)
    assert got.fetched == ("fork",)
    assert (got.fork / "README.md").read_text() == "next\n"


def test_failed_replacement_keeps_the_old_checkout(project: Project) -> None:
    fork = ensure(project).fork
    edit(fork)
    shutil.rmtree(project.upstream.root)
    refused(project, SourceError, "is not a git repository")
    assert (fork / "README.md").exists()


# --- interruption and company


def test_leftover_of_a_killed_run_is_removed(project: Project) -> None:
    leftover = project.workspace.source / ".fork.new-abc"
    write(leftover, {".git/objects/pack/tmp_pack_x": "half"})
    ensure(project)
    assert sorted(p.name for p in project.workspace.source.iterdir()) == ["fork", "submodule"]


def _child(project: Project, ready: object | None = None) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    if ready is not None:
        ready.wait()  # type: ignore[attr-defined]
    got = ensure(project)
    print("fetched:", *got.fetched)


def test_kill_in_the_middle_of_a_fetch(project: Project, tmp_path: Path) -> None:
    """The git host hangs after the first bytes; the run is killed; the next one is whole."""
    hang = tmp_path / "hang.sh"
    hang.write_text("#!/bin/sh\necho $$ > $0.new\nmv $0.new $0.pid\nexec sleep 60\n")
    hang.chmod(0o755)
    env = {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_1": "remote.origin.uploadpack",
           "GIT_CONFIG_VALUE_1": str(hang)}  # fmt: skip
    context = multiprocessing.get_context("fork")
    os.environ.update(env)
    try:
        child = context.Process(target=_child, args=(project,))
        child.start()
    finally:
        os.environ["GIT_CONFIG_COUNT"] = "1"
    pid = Path(f"{hang}.pid")
    _wait_for(pid.exists)
    half = list(project.workspace.source.glob(".fork.new-*"))
    assert len(half) == 1
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join(10)
    began = time.monotonic()
    assert ensure(project).fetched == ("fork", "submodule")
    assert time.monotonic() - began < 30, "the killed run still held the workspace"
    assert not half[0].exists()
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_two_runs_at_once(project: Project, tmp_path: Path) -> None:
    """Both succeed, one fetches, the other waits."""
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(2)

    def go(name: str) -> None:
        with (tmp_path / name).open("w") as out:
            os.dup2(out.fileno(), 1)
            sys.stdout = os.fdopen(1, "w")
            _child(project, ready)
            sys.stdout.flush()

    children = [context.Process(target=go, args=(name,)) for name in ("one", "two")]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    texts = [(tmp_path / name).read_text() for name in ("one", "two")]
    assert sum("fetched: fork submodule" in text for text in texts) == 1, texts
    assert sum("fetched:\n" in text for text in texts) == 1, texts


def _wait_for(what: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


def test_umask_does_not_matter(project: Project) -> None:
    before = os.umask(0o077)
    try:
        assert ensure(project).fetched == ("fork", "submodule")
        assert ensure(project).fetched == ()
    finally:
        os.umask(before)
    assert stat.S_IMODE((project.workspace.source / "fork/README.md").stat().st_mode) == 0o600
