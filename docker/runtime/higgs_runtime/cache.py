"""Layout of the weights on disk: the Hugging Face cache, so that other programs find them, too.

A snapshot that was downloaded and checked has a record of its files beside it; as long as the files
exist with the recorded sizes, a start makes no request.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

VOLUMES = ("/workspace", "/runpod-volume")
"""Where platforms mount storage that outlives a container."""

COMMIT = re.compile(r"[0-9a-f]{40}")


class WeightsRepo(NamedTuple):
    """Weights that the server needs.

    Attributes:
        role: what they are, for a person.
        repo: repository on the hub, or a folder.
        revision: commit, branch or tag.
        by_name: the server loads them by name instead of path, from the branch main.
    """

    role: str
    repo: str
    revision: str
    by_name: bool = False


def base_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder for caches: on the volume that outlives the container, or at home."""
    volume = next((x for x in VOLUMES if os.path.ismount(x)), None)
    cache = f"{volume}/.cache" if volume else environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser()


def hub_home(setting: str | None, environment: Mapping[str, str]) -> Path:
    """Return the value for HF_HOME: as set, else below `base_folder`."""
    return Path(setting).expanduser() if setting else base_folder(environment) / "huggingface"


def hub_cache(hf_home: Path, environment: Mapping[str, str]) -> Path:
    """Return the folder of the hub's cache."""
    return Path(environment.get("HF_HUB_CACHE") or hf_home / "hub")


def locate(entry: WeightsRepo, cache: Path) -> Path | None:
    """Return the folder of weights that are complete; None if something is missing."""
    if Path(entry.repo).is_dir():
        return Path(entry.repo)
    commit = _commit(entry, cache)
    if commit is None:
        return None
    snapshot = repo_folder(entry.repo, cache) / "snapshots" / commit
    try:
        files = json.loads(record_file(entry.repo, commit, cache).read_bytes())["files"]
        whole = all((snapshot / name).stat().st_size == size for name, size in files.items())
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return snapshot if whole else None


def locate_unchecked(entry: WeightsRepo, cache: Path) -> Path | None:
    """Return a snapshot that another program downloaded; None if files are visibly missing."""
    commit = _commit(entry, cache)
    folder = repo_folder(entry.repo, cache)
    snapshot = folder / "snapshots" / (commit or "-")
    if record_file(entry.repo, commit or "-", cache).exists() or not snapshot.is_dir():
        return None
    broken = any(not path.exists() for path in snapshot.rglob("*"))
    return None if broken or list(folder.glob("blobs/*.incomplete")) else snapshot


def write_record(repo: str, commit: str, cache: Path, files: Mapping[str, int]) -> None:
    """Record that a snapshot is complete and was checked, with name and size of every file."""
    path = record_file(repo, commit, cache)
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}")  # pods may share a volume
    temporary.write_text(json.dumps({"files": dict(files)}, indent=1))
    temporary.replace(path)


def record_file(repo: str, commit: str, cache: Path) -> Path:
    """Return the path of the record of a snapshot."""
    return repo_folder(repo, cache) / f"higgs-checked-{commit}.json"


def repo_folder(repo: str, cache: Path) -> Path:
    """Return the folder of a repository in the hub's cache."""
    return cache / f"models--{repo.replace('/', '--')}"


def reference_file(repo: str, revision: str, cache: Path) -> Path:
    """Return the path of the file that holds the commit of a branch or tag."""
    return repo_folder(repo, cache) / "refs" / revision


def _commit(entry: WeightsRepo, cache: Path) -> str | None:
    if COMMIT.fullmatch(entry.revision):
        return entry.revision
    with suppress(OSError):
        return reference_file(entry.repo, entry.revision, cache).read_text().strip()
    return None
