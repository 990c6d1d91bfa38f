"""The weights: which repositories the server needs, and whether they are all on the disk.

They lie in the Hugging Face cache, where every other program finds them, too. Beside a snapshot
that was downloaded and checked lies a record of its files; as long as they are there with the
recorded sizes, a start makes no request. `hub` downloads what is missing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from higgs_runtime import log
from higgs_runtime.errors import BadSetting, NotCached
from higgs_runtime.image import Image
from higgs_runtime.settings import Settings

VOLUMES = ("/workspace", "/runpod-volume")
"""Where platforms mount what outlives a container."""

SEMANTIC_PATCH = "audio_tokenizer"
"""The patch with which the semantic model is taken from the audio tokenizer's own file."""

COMMIT = re.compile(r"[0-9a-f]{40}")


class Wanted(NamedTuple):
    """Weights that the server needs.

    Attributes:
        what: for a person.
        repo: on the hub, or a folder.
        revision: commit, branch or tag.
        by_name: the server asks for it by name, not by path, and for no revision.
    """

    what: str
    repo: str
    revision: str
    by_name: bool = False


class Place(NamedTuple):
    """Where the server finds its weights.

    Attributes:
        model, audio_tokenizer: folders.
        semantic_model: folder, unless the server takes it from the audio tokenizer's file.
    """

    model: str
    audio_tokenizer: str
    semantic_model: str | None = None


def home(settings: Settings, environment: Mapping[str, str]) -> Path:
    """Return HF_HOME: what was set, else on the volume that outlives the container, or at home."""
    if settings.hf_home:
        return Path(settings.hf_home).expanduser()
    volume = next((x for x in VOLUMES if os.path.ismount(x)), None)
    cache = f"{volume}/.cache" if volume else environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface"


def cache_folder(hf_home: Path, environment: Mapping[str, str]) -> Path:
    """Return the folder of the hub's cache."""
    return Path(environment.get("HF_HUB_CACHE") or hf_home / "hub")


def offline(environment: Mapping[str, str]) -> bool:
    """Return whether the hub's library is told to ask nobody, in any of its spellings."""
    return environment.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE")


def wanted(settings: Settings, image: Image) -> list[Wanted]:
    """Return the repositories that the server loads: the model and the audio tokenizer.

    The codec's semantic model is a repository of its own. With our patch the server takes it from
    the audio tokenizer's file, unless a revision of it is set; without, it loads its main branch.
    """
    needed = [
        Wanted("model", settings.model, settings.model_revision),
        Wanted("audio tokenizer", settings.audio_tokenizer, settings.audio_tokenizer_revision),
    ]
    semantic, revision = image.semantic_model, settings.semantic_model_revision
    if semantic is None:
        return needed
    if revision:
        needed.append(Wanted("semantic model", semantic.repo, revision))
    elif SEMANTIC_PATCH not in image.patches:
        pinned = semantic.revision or "main"
        needed.append(Wanted("semantic model", semantic.repo, pinned, by_name=True))
    return needed


def ensure(
    needed: list[Wanted],
    cache: Path,
    *,
    offline: bool,
    progress: Callable[[str], None],
) -> Place:
    """Make sure that all weights are on the disk; download what is not.

    Args:
        needed: what `wanted` returned.
        cache: the hub's cache.
        offline: make no request.
        progress: is told what is going on.

    Raises:
        Refused: they are not, and why.
    """
    try:
        found = {entry: locate(entry, cache) for entry in needed}
        return _ensure(needed, found, cache, offline=offline, progress=progress)
    except PermissionError as error:
        raise BadSetting(
            f"weights cannot be read: {error.strerror} for {error.filename}",
            f"let the container's user (id {os.getuid()}) read them, or start it as another",
        ) from None


def _ensure(
    needed: list[Wanted],
    found: dict[Wanted, Path | None],
    cache: Path,
    *,
    offline: bool,
    progress: Callable[[str], None],
) -> Place:
    missing = [entry for entry, folder in found.items() if folder is None]
    if missing and offline:
        for entry in missing:
            found[entry] = _unrecorded(entry, cache)
            if found[entry] is None:
                raise NotCached(
                    f"{entry.repo} at {entry.revision} is not in {cache}, and HIGGS_OFFLINE is set",
                    "start once without HIGGS_OFFLINE, or put the weights there",
                )
            log.warning(f"{entry.what} {entry.repo}: found in {cache}, not checked")
    elif missing:
        _require_writable(cache)
        from higgs_runtime import hub

        found.update(hub.download(missing, cache, progress))
    else:
        log.info("weights: all there, nothing to download")
    for entry, folder in found.items():
        if entry.by_name and folder is not None and not Path(entry.repo).is_dir():
            _point_main_at(entry, cache, folder.name)
    return Place(*(str(found[entry]) for entry in needed if not entry.by_name))


def _require_writable(cache: Path) -> None:
    """Refuse a cache that nothing can be downloaded to.

    Raises:
        BadSetting: saying why.
    """
    hint = "set HF_HOME to a folder that can be written"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"weights cannot be kept in {cache}: {error.strerror}", hint) from None
    if not os.access(cache, os.W_OK):
        raise BadSetting(
            f"weights cannot be kept in {cache}: it is read-only for this user",
            f"{hint}, or HIGGS_OFFLINE=1 if they are there",
        )


def locate(entry: Wanted, cache: Path) -> Path | None:
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


def write_record(repo: str, commit: str, cache: Path, files: Mapping[str, int]) -> None:
    """Write down that a snapshot is complete and was checked: name and size of every file."""
    path = record_file(repo, commit, cache)
    beside = path.with_name(f"{path.name}.{os.urandom(8).hex()}")  # pods may share a volume
    beside.write_text(json.dumps({"files": dict(files)}, indent=1))
    beside.replace(path)


def record_file(repo: str, commit: str, cache: Path) -> Path:
    """Return the path of the record of a snapshot."""
    return repo_folder(repo, cache) / f"higgs-checked-{commit}.json"


def repo_folder(repo: str, cache: Path) -> Path:
    """Return the folder of a repository in the hub's cache."""
    return cache / f"models--{repo.replace('/', '--')}"


def _commit(entry: Wanted, cache: Path) -> str | None:
    if COMMIT.fullmatch(entry.revision):
        return entry.revision
    with suppress(OSError):
        return (repo_folder(entry.repo, cache) / "refs" / entry.revision).read_text().strip()
    return None


def _unrecorded(entry: Wanted, cache: Path) -> Path | None:
    """Return a snapshot that another program put there; None if it is visibly incomplete."""
    commit = _commit(entry, cache)
    folder = repo_folder(entry.repo, cache)
    snapshot = folder / "snapshots" / (commit or "-")
    if record_file(entry.repo, commit or "-", cache).exists() or not snapshot.is_dir():
        return None
    broken = any(not path.exists() for path in snapshot.rglob("*"))
    return None if broken or list(folder.glob("blobs/*.incomplete")) else snapshot


def _point_main_at(entry: Wanted, cache: Path, commit: str) -> None:
    """The server asks for the branch `main` of this repository; let it find the pinned commit."""
    reference = repo_folder(entry.repo, cache) / "refs" / "main"
    with suppress(OSError):
        if reference.read_text() == commit:
            return
    try:
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
    except OSError as error:
        raise NotCached(
            f"{reference} does not name {commit[:7]} and cannot be written: {error.strerror}",
            "make the cache writable for one start",
        ) from None
