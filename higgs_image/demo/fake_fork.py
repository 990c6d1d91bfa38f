"""A small fake of the fork: everything that the pipeline starts from, made on the spot.

Two git repositories, a wheel and a lock, made from fakes/upstream. They go through the same source,
render, build and push code as the real fork, in seconds and without GitHub. Commits and wheel are
the same bytes on every machine.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomlkit

from higgs_image import lockfile
from higgs_image.files import files_below, new_folder, sha256_file, write_atomically
from higgs_image.smoke.sound import wav
from higgs_image.workspace import PROJECT, Workspace

if TYPE_CHECKING:
    from git import Repo

SUBMODULE = "external/higgs-audio"
RELEASE = "v0.8.3"
WHEEL = "vllm-0.8.3-py3-none-any.whl"
VARIANT, KERNELS, CALLS_KERNELS = "cuda12.8", "vllm-0.10.2-py3-none-any.whl", "vllm/_custom_ops.py"
"""The variant, the wheel that its kernels come from, and what it replaces of the fork."""
PYTHON = "3.11"
COMPILED = ("csrc", "cmake", "CMakeLists.txt")
"""Parts that the fork must leave as they are in vLLM."""

DISK_GB = 2.0
"""Free disk for a cold build of it."""

NO_BASE = "127.0.0.1:5000/debian-base@sha256:" + 64 * "0"
"""A base image that does not exist, for tests that do not build."""

_DATES = {"submodule": "2025-07-28T12:00:00+00:00",
          "base": "2025-07-29T12:00:00+00:00",
          "fork": "2025-07-30T12:00:00+00:00"}  # fmt: skip
_NAME, _EMAIL = "Fake Fork", "fake-fork@localhost"
_RECIPE = ["docker/build", "docker/runtime/higgs_runtime", "docker/generate/higgs_generate",
           "templates", "LICENSE", "NOTICE"]  # fmt: skip


def workspace_in(folder: Path, root: Path = PROJECT) -> Workspace:
    """Return the workspace of a fake fork below a folder."""
    folder = folder.resolve()
    return Workspace(
        build=folder / "build",
        lock_file=folder / "versions.lock",
        layers_file=folder / "layers.toml",
        wheels=folder / "wheels",
        root=root,
        disk_gb=DISK_GB,
    )


def make(
    folder: Path,
    base: str = NO_BASE,
    *,
    changes: Mapping[str, str] | None = None,
    root: Path = PROJECT,
) -> Workspace:
    """Make the fake fork below a folder; made again, it is the same.

    Args:
        folder: receives repositories, wheel, requirements, layers.toml and versions.lock.
        base: the base image, as `name@sha256:...`.
        changes: text of files that the fork's commit has besides its own, by path; one below
            `csrc` changes a kernel.
        root: the project's folder.
    """
    workspace = workspace_in(folder, root)
    folder = folder.resolve()
    parts, pins = root / "fakes" / "upstream", root / "fakes" / "upstream" / "pins"
    with workspace.exclusive("fake-fork"):
        with new_folder(folder / "repositories") as new:
            with _init(new / "higgs-audio") as repo:
                _copy(parts / "submodule", new / "higgs-audio")
                submodule = _commit(repo, "submodule", "Make sound")
            fork = _make_fork(new / "fork", parts, submodule["commit"], changes or {})
        for name, part in ((WHEEL, "base"), (KERNELS, "kernels")):
            write_atomically(folder / "wheels" / name, _wheel(parts / part, name.split("-")[1]))
        tools = root / "docker" / "requirements"
        for name in ("requirements.in", "requirements.txt", "layers.toml"):
            write_atomically(folder / name, (pins / name).read_bytes())
        for name in ("build.txt", "installer.txt"):
            write_atomically(folder / name, (tools / name).read_bytes())
        text = _lock(folder, base, fork, submodule, root)
        write_atomically(folder / "versions.lock", text.encode())
    return workspace


def _make_fork(
    path: Path, parts: Path, submodule: str, changes: Mapping[str, str]
) -> dict[str, str]:
    """Two commits: the release, and the fork's own on top of it."""
    with _init(path) as repo:
        _copy(parts / "base", path)
        base = _commit(repo, "base", f"Release {RELEASE}")
        repo.git.tag(RELEASE)
        pinned = (*COMPILED, CALLS_KERNELS)
        compiled = {f"tree:{x}": repo.git.rev_parse(f"{RELEASE}:{x}") for x in pinned}
        _copy(parts / "fork", path)
        presets = path / "vllm" / "entrypoints" / "bosonai" / "voice_presets"
        square_wave = (b"\x00\x10" * 30 + b"\x00\xf0" * 30) * 40  # the only voice: 0.1 s
        (presets / "beep.wav").write_bytes(wav(np.frombuffer(square_wave, "<i2")))
        # Relative to the fork's own URL, so that the commit is the same wherever it is made.
        (path / ".gitmodules").write_text(
            f'[submodule "{SUBMODULE}"]\n\tpath = {SUBMODULE}\n\turl = ../higgs-audio\n'
        )
        for name, text in changes.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        repo.git.update_index("--add", "--cacheinfo", f"160000,{submodule},{SUBMODULE}")
        # Git takes away an entry whose folder is missing.
        (path / SUBMODULE).mkdir(parents=True, exist_ok=True)
        return _commit(repo, "fork", "Serve speech") | compiled | {"base": base["commit"]}


def _init(path: Path) -> Repo:
    """Make an empty repository that ignores the configuration of git on this machine."""
    from git import Repo

    path.mkdir(parents=True)
    repo = Repo.init(path, initial_branch="main", object_format="sha1")
    with repo.config_writer() as config:
        config.set_value("core", "hooksPath", os.devnull)
    repo.git.update_environment(
        GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM="1",
        GIT_AUTHOR_NAME=_NAME, GIT_AUTHOR_EMAIL=_EMAIL,
        GIT_COMMITTER_NAME=_NAME, GIT_COMMITTER_EMAIL=_EMAIL,
    )  # fmt: skip
    return repo


def _copy(source: Path, target: Path) -> None:
    for path in files_below(source):
        if any(part.startswith(".") for part in path.relative_to(source).parts):
            continue  # a tool's cache
        goal = target / path.relative_to(source)
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.write_bytes(path.read_bytes())


def _commit(repo: Repo, part: str, message: str) -> dict[str, str]:
    repo.git.add("--all", "--force")
    with repo.git.custom_environment(GIT_AUTHOR_DATE=_DATES[part], GIT_COMMITTER_DATE=_DATES[part]):
        repo.git.commit("--quiet", "--message", message)
    return {"commit": repo.git.rev_parse("HEAD"), "tree": repo.git.rev_parse("HEAD^{tree}")}


def _wheel(base: Path, version: str) -> bytes:
    """Make the wheel of a release: not compressed and without dates, always the same bytes."""
    info = f"vllm-{version}.dist-info"
    files = {
        path.relative_to(base).as_posix(): path.read_bytes() for path in files_below(base / "vllm")
    }
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: higgs-image\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')},{len(data)}\n"
        for name, data in files.items()
        for digest in [hashlib.sha256(data).digest()]
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as wheel:
            for name, data in files.items():
                entry = zipfile.ZipInfo(name)  # 1980-01-01
                entry.create_system, entry.external_attr = 3, 0o100644 << 16
                wheel.writestr(entry, data)
        file.seek(0)
        return file.read()


def _wheel_pin(folder: Path, wheel: str) -> dict[str, str]:
    name, version, *_ = wheel.split("-")
    sha256 = sha256_file(folder / "wheels" / wheel)
    return {"requirement": f"{name}=={version}", "name": name, "version": version,
            "filename": wheel, "sha256": sha256}  # fmt: skip


def _packages(folder: Path, *more: str) -> dict[str, str]:
    """Return the pins of requirements files, each with its hash."""
    asked = folder / "requirements.in"
    pins = {"input": asked.name, "input_sha256": lockfile.input_sha256(asked)}
    for name in ("requirements", *more):
        pins |= {name: f"{name}.txt", f"{name}_sha256": sha256_file(folder / f"{name}.txt")}
    return pins


def _lock(
    folder: Path, base: str, fork: dict[str, str], submodule: dict[str, str], root: Path
) -> str:
    image, _, digest = base.partition("@")
    repositories = folder / "repositories"
    date = datetime.datetime.fromisoformat(_DATES["fork"])
    why = "the fake fork loads no weights"
    replaced = {CALLS_KERNELS: fork[f"tree:{CALLS_KERNELS}"]}
    document: dict[str, Any] = {
        "schema": 1,
        "date": date.date(),
        "fork": {
            "url": (repositories / "fork").as_uri(), "ref": "main",
            "commit": fork["commit"], "tree": fork["tree"], "date": date,
        },
        "vllm": {
            "ref": RELEASE, "commit": fork["base"],
            "trees": {name: fork[f"tree:{name}"] for name in COMPILED},
        },
        "submodule": {
            "path": SUBMODULE, "url": (repositories / "higgs-audio").as_uri(), **submodule,
        },
        "wheel": _wheel_pin(folder, WHEEL),
        "base": {"image": image, "digest": digest},
        "python": {"version": PYTHON, **_packages(folder, "build", "installer")},
        "variant": [{
            "name": VARIANT, **_packages(folder),
            "kernels": {**_wheel_pin(folder, KERNELS), "unchanged": replaced},
        }],
        "weights": [
            {"role": role, "repo": f"fake-fork/{name}", "unpinned": why}
            for role, name in (("generation", "generation"), ("audio-tokenizer", "tokenizer"))
        ],
        "recipe": {
            "paths": _RECIPE,
            "sha256": lockfile.recipe_sha256([root / path for path in _RECIPE], root),
        },
    }  # fmt: skip
    note = "# Every pin of a fake fork. Written by higgs_image/demo/fake_fork.py each time.\n"
    return note + tomlkit.dumps(document)
