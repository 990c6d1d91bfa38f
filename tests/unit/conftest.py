"""What the unit tests share: a small fork with a submodule in real git repositories, and its lock.

The lock has https URLs; git's insteadOf redirects them to folders below tmp_path.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from higgs_image import lockfile
from higgs_image.files import sha256_file
from higgs_image.lockfile import Lock
from higgs_image.workspace import PROJECT, Workspace
from tests.support.warm import WarmPopen

HOST = "https://git.invalid/"
SUBMODULE = "external/higgs-audio"

FORK_FILES: dict[str, str] = {
    ".gitignore": "ignored/\n*.log\n",
    "CMakeLists.txt": "project(vllm)\n",
    "README.md": "fork\n",
    "cmake/utils.cmake": "# utils\n",
    "csrc/kernel.cu": "__global__ void f();\n",
    "vllm/__init__.py": "",
    "vllm/entrypoints/bosonai/api_server.py": "print('server')\n",
    "vllm/entrypoints/bosonai/voices/en_woman.wav": "RIFF....WAVE",
    "vllm/tools/run.sh": "#!/bin/sh\n",
}
SUBMODULE_FILES: dict[str, str] = {
    "boson_multimodal/__init__.py": "",
    "boson_multimodal/audio_processing/codec.py": "codec = 1\n",
    "requirements.txt": "transformers<4.47\n",
}


def git(repo: Path, *arguments: str, data: str | None = None) -> str:
    done = subprocess.run(
        ["git", "-C", str(repo), *arguments], capture_output=True, text=True, input=data
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755 if name.endswith(".sh") else 0o644)


def commit_all(repo: Path, message: str = "change") -> str:
    git(repo, "add", "--all", "--force")
    git(repo, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(repo, "rev-parse", "HEAD")


@dataclass
class Upstream:
    """The repositories that the lock points to."""

    root: Path
    fork: Path = field(init=False)
    submodule: Path = field(init=False)
    commit: str = field(init=False)
    submodule_commit: str = field(init=False)

    def __post_init__(self) -> None:
        self.fork, self.submodule = self.root / "fork.git", self.root / "audio.git"
        if self.fork.exists():
            self.commit = (self.fork / ".git/refs/heads/main").read_text().strip()
            self.submodule_commit = (self.submodule / ".git/refs/heads/main").read_text().strip()
            return
        for repo, files in ((self.submodule, SUBMODULE_FILES), (self.fork, FORK_FILES)):
            repo.mkdir(parents=True)
            git(repo, "init", "--quiet", "--initial-branch", "main")
            commit_all(repo, "history that nobody needs")
            write(repo, files)
        self.submodule_commit = commit_all(self.submodule)
        self.commit = self.record_submodule(self.submodule_commit)

    def record_submodule(self, commit: str, path: str = SUBMODULE, url: str = "audio.git") -> str:
        """Commit the fork with this submodule; returns the new commit."""
        write(
            self.fork, {".gitmodules": f'[submodule "x"]\n\tpath = {path}\n\turl = {HOST}{url}\n'}
        )
        git(self.fork, "add", "--all", "--force")
        git(self.fork, "update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
        git(self.fork, "commit", "--quiet", "--message", "submodule")
        self.commit = git(self.fork, "rev-parse", "HEAD")
        return self.commit

    def change(self, files: dict[str, str]) -> str:
        """Commit changed files to the fork; the index, and so the submodule, is kept."""
        write(self.fork, files)
        git(self.fork, "add", "--force", *files)
        git(self.fork, "commit", "--quiet", "--message", "change")
        self.commit = git(self.fork, "rev-parse", "HEAD")
        return self.commit

    def tree(self, what: str = "HEAD^{tree}", repo: Path | None = None) -> str:
        return git(repo or self.fork, "rev-parse", what)


def covered(key: str, path: Path) -> str:
    return (lockfile.input_sha256 if key == "input" else sha256_file)(path)


@dataclass
class Project:
    """A workspace below tmp_path with its own lock, on the project's templates and recipe."""

    workspace: Workspace
    upstream: Upstream

    @property
    def text(self) -> str:
        return self.workspace.lock_file.read_text()

    def replace(self, old: str, new: str) -> None:
        assert old in self.text, old
        self.workspace.lock_file.write_text(self.text.replace(old, new, 1))

    def pin(self) -> None:
        """Write the lock for what upstream is now."""
        folder = self.workspace.lock_file.parent
        paths = {
            k: f"requirements/{k}.txt" for k in ("input", "requirements", "build", "installer")
        }
        write(folder, {v: REQUIREMENTS.get(k, f"# {k}\n") for k, v in paths.items()})
        python = "\n".join(
            f'{k} = "{v}"\n{k}_sha256 = "{covered(k, folder / v)}"' for k, v in paths.items()
        )
        up = self.upstream
        recipe = lockfile.recipe_sha256([PROJECT / "templates"], PROJECT)
        trees = {name: up.tree(f"HEAD:{name}") for name in ("csrc", "cmake", "CMakeLists.txt")}
        self.workspace.lock_file.write_text(
            LOCK.format(
                host=HOST,
                path=SUBMODULE,
                commit=up.commit,
                tree=up.tree(),
                submodule_commit=up.submodule_commit,
                submodule_tree=up.tree(repo=up.submodule),
                base="b" * 40,
                digest="c" * 64,
                wheel="d" * 64,
                revision="e" * 40,
                recipe=recipe,
                python=python,
                trees="\n".join(f'"{name}" = "{tree}"' for name, tree in trees.items()),
            )
        )

    def load(self) -> Lock:
        return lockfile.load(self.workspace.lock_file)

    def add_variant(self, unchanged: str = "") -> None:
        """Pin a variant, cuda12.8; `unchanged` are lines of its table of that name."""
        folder = self.workspace.lock_file.parent
        files = {"input": "requirements/other.in", "requirements": "requirements/other.txt"}
        text = REQUIREMENTS["requirements"].replace("2.6.0", "2.8.0")
        write(folder, {files["input"]: "-r input.txt\ntorch\n", files["requirements"]: text})
        python = "\n".join(
            f'{k} = "{v}"\n{k}_sha256 = "{covered(k, folder / v)}"' for k, v in files.items()
        )
        lock, layers = self.workspace.lock_file, self.workspace.layers_file
        lock.write_text(self.text + VARIANT.format(python=python, unchanged=unchanged))
        layers.write_text(layers.read_text() + VARIANT_LAYERS)


REQUIREMENTS = {
    "requirements": f"torch==2.6.0 \\\n    --hash=sha256:{'1' * 64}\n    # via x\n"
    f"uvloop==0.21.0 \\\n    --hash=sha256:{'2' * 64} \\\n    --hash=sha256:{'3' * 64}\n",
    "installer": f"uv==0.8.0 --hash=sha256:{'4' * 64}\n",
}

LOCK = """\
# A comment at the top stays: ümlaut.
schema = 1
date = 2026-01-02 # part of the tag

[fork]
url = "{host}fork.git"
ref = "main"
commit = "{commit}"
tree = "{tree}"
date = 2025-07-30T16:20:54-07:00

[vllm]
ref = "v0.8.3"
commit = "{base}"

[vllm.trees]
{trees}

[submodule]
path = "{path}"
url = "{host}audio.git"
commit = "{submodule_commit}"
tree = "{submodule_tree}"

[wheel]
requirement = "vllm==0.8.3"
name = "vllm"
version = "0.8.3"
filename = "vllm-0.8.3-cp38-abi3-manylinux1_x86_64.whl"
sha256 = "{wheel}"

[base]
image = "debian:bookworm-slim"
digest = "sha256:{digest}"

[python]
version = "3.11"
{python}

# Weights.
[[weights]]
role = "generation"
repo = "bosonai/model"
revision = "{revision}" # the last one

[[weights]]
role = "audio-tokenizer"
repo = "bosonai/tokenizer"
revision = "{revision}"

[[weights]]
role = "semantic-model"
repo = "bosonai/hubert_base"
unpinned = "its revision was never published"

[recipe]
paths = ["templates"]
sha256   =   "{recipe}" # kept by invoke lock
"""


VARIANT = """
[[variant]]
name = "cuda12.8"
{python}
hold = "tested with these"

[variant.kernels]
requirement = "vllm==0.10.2"
name = "vllm"
version = "0.10.2"
filename = "vllm-0.10.2-cp38-abi3-manylinux1_x86_64.whl"
sha256 = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"

[variant.kernels.unchanged]
{unchanged}
"""

VARIANT_LAYERS = """
[variant."cuda12.8"]
cuda = "12.8"
gpus = ["9.0", "10.0"]
kernels = ["vllm/*.so", "vllm/_custom_ops.py", "vllm/kernels"]
budget = { gzip_mb = 40, zstd_mb = 30, largest_layer_mb = 20, unpacked_mb = 100 }

[variant."cuda12.8".layer]
torch = { budget_mb = 20, remove = ["b"] }
vllm = { budget_mb = 8 }
"""


def isolate_git(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Hide the user's git settings."""
    move_home(root / "home", patch)
    give_identity(patch)


def move_home(home: Path, patch: pytest.MonkeyPatch) -> None:
    home.mkdir(exist_ok=True)
    patch.setenv("HOME", str(home))
    patch.setenv("XDG_CONFIG_HOME", str(home))


def give_identity(patch: pytest.MonkeyPatch) -> None:
    """Let git be nobody's but the tests'."""
    for name in [x for x in os.environ if x.startswith("GIT_")]:
        patch.delenv(name)
    patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    patch.setenv("GIT_TEMPLATE_DIR", "")
    for who in ("AUTHOR", "COMMITTER"):
        patch.setenv(f"GIT_{who}_NAME", "Tester")
        patch.setenv(f"GIT_{who}_EMAIL", "tester@example.org")
        patch.setenv(f"GIT_{who}_DATE", "2025-07-30T16:20:54-07:00")


def make_project(root: Path, patch: pytest.MonkeyPatch) -> Project:
    """Return a project below `root` whose lock pins the small fork; made unless it is there."""
    upstream = Upstream(root / "upstream")
    patch.setenv("GIT_CONFIG_COUNT", "1")
    patch.setenv("GIT_CONFIG_KEY_0", f"url.{upstream.root}/.insteadOf")
    patch.setenv("GIT_CONFIG_VALUE_0", HOST)
    folder = root / "project"
    folder.mkdir(exist_ok=True)
    layers = folder / "layers.toml"
    layers.write_text(LAYERS)
    made = Project(Workspace(root / "build", folder / "versions.lock", layers), upstream)
    if not made.workspace.lock_file.exists():
        made.pin()
    return made


@pytest.fixture(autouse=True, scope="package")
def _tests_identity() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:  # ends here: other suites have their own settings
        give_identity(patch)
        yield


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that are not there yet."""
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_home(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a home of its own; most need no other folder."""
    move_home(next(homes), monkeypatch)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        isolate_git(root, patch)
        make_project(root, patch)
    return root


@pytest.fixture
def project(made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose lock pins the small fork."""
    copy_project(made_once, tmp_path)
    return make_project(tmp_path, monkeypatch)


def copy_project(made: Path, root: Path) -> None:
    """Copy a project with its repositories; git's objects, which never change, are linked."""

    def copy(source: str, goal: str) -> None:
        (os.link if "/objects/" in source else shutil.copy2)(source, goal)

    shutil.copytree(made, root, symlinks=True, dirs_exist_ok=True, copy_function=copy)


@pytest.fixture
def lock_only(made_once: Path, tmp_path: Path) -> Project:
    """The same, for tests that fetch nothing: the repositories are shared and not to be changed."""
    shutil.copytree(made_once / "project", tmp_path / "project")
    workspace = Workspace(
        tmp_path / "build", tmp_path / "project/versions.lock", tmp_path / "project/layers.toml"
    )
    return Project(workspace, Upstream(made_once / "upstream"))


LAYERS = """\
cuda = "12.4"
[[layer]]
name = "torch"
reason = "PyTorch."
packages = ["torch", "nvidia-*"]
budget_mb = 10

[[layer]]
name = "packages"
reason = "The rest."
packages = ["*"]
budget_mb = 5

[wheel]
budget_mb = 4

[budget]
gzip_mb = 20
zstd_mb = 15
largest_layer_mb = 10
unpacked_mb = 50
"""


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Remove the handler that tasks add to the package's logger."""
    yield
    logger = logging.getLogger("higgs_image")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def warm_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start programs in Python as tests/support/warm.py says."""
    monkeypatch.setattr(subprocess, "Popen", WarmPopen)


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, tuple[int, bytes]]]:
    """Return a function that records names, modes and contents below a folder."""

    def take(root: Path) -> dict[str, tuple[int, bytes]]:
        return {
            str(p.relative_to(root)): (p.lstat().st_mode, p.read_bytes() if p.is_file() else b"")
            for p in root.rglob("*")
        }

    return take
