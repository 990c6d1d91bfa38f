"""Which weights the server needs, and that all of them are on disk before it starts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from higgs_runtime import cache, log
from higgs_runtime.cache import WeightsRepo
from higgs_runtime.errors import NotCachedError, SettingError
from higgs_runtime.image import ImageFacts
from higgs_runtime.settings import Settings

SEMANTIC_PATCH = "audio_tokenizer"
"""The patch that loads the semantic model from the audio tokenizer's own file."""


class WeightFolders(NamedTuple):
    """Folders from which the server loads its weights.

    Attributes:
        model, audio_tokenizer: folders.
        semantic_model: folder; None if it is part of the audio tokenizer's file.
    """

    model: str
    audio_tokenizer: str
    semantic_model: str | None = None


def is_offline(environment: Mapping[str, str]) -> bool:
    """Return whether HF_HUB_OFFLINE is on, in any spelling that huggingface_hub accepts."""
    return environment.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE")


def required(settings: Settings, image: ImageFacts) -> list[WeightsRepo]:
    """Return the repositories that the server loads: the model and the audio tokenizer.

    The codec's semantic model is a separate repository. A patched server loads it from the audio
    tokenizer's file unless a revision is set; an unpatched one loads its main branch.
    """
    needed = [
        WeightsRepo("model", settings.model, settings.model_revision),
        WeightsRepo("audio tokenizer", settings.audio_tokenizer, settings.audio_tokenizer_revision),
    ]
    semantic, revision = image.semantic_model, settings.semantic_model_revision
    if semantic is None:
        return needed
    if revision:
        needed.append(WeightsRepo("semantic model", semantic.repo, revision))
    elif SEMANTIC_PATCH not in image.patches:
        pinned = semantic.revision or "main"
        needed.append(WeightsRepo("semantic model", semantic.repo, pinned, by_name=True))
    return needed


def ensure(
    needed: list[WeightsRepo],
    folder: Path,
    *,
    offline: bool,
    report: Callable[[str], None],
) -> WeightFolders:
    """Make sure that all weights are on disk; download what is missing.

    Args:
        needed: result of `required`.
        folder: the hub's cache.
        offline: make no request.
        report: is called with what happens now.

    Raises:
        StartError: they are not, and why.
    """
    try:
        found = {entry: cache.locate(entry, folder) for entry in needed}
        missing = [entry for entry, place in found.items() if place is None]
        if missing and offline:
            found.update({entry: _unchecked(entry, folder) for entry in missing})
        elif missing:
            _require_writable(folder)
            from higgs_runtime import download  # imports huggingface_hub: a third of a second

            found.update(download.download(missing, folder, report))
        else:
            log.info("weights: complete, nothing to download")
        for entry, place in found.items():
            if entry.by_name and place is not None and not Path(entry.repo).is_dir():
                _point_main_at(entry, folder, place.name)
    except PermissionError as error:
        raise SettingError(
            f"weights cannot be read: {error.strerror} for {error.filename}",
            f"let the container's user (id {os.getuid()}) read them, or start it as another user",
        ) from None
    return WeightFolders(*(str(found[entry]) for entry in needed if not entry.by_name))


def quantization(model: str) -> str:
    """Return how a folder's weights are quantized, as the server reads it; empty: they are not."""
    try:
        config = json.loads(Path(model, "config.json").read_bytes())
        method = (config.get("quantization_config") or config["compression_config"])["quant_method"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""  # the server reports a config.json that is not valid
    return str(method).lower()


def _unchecked(entry: WeightsRepo, folder: Path) -> Path:
    found = cache.locate_unchecked(entry, folder)
    if found is None:
        raise NotCachedError(
            f"{entry.repo} at {entry.revision} is not in {folder}, and HIGGS_OFFLINE is set",
            "start once without HIGGS_OFFLINE, or copy the weights there",
        )
    log.warning(f"{entry.role} {entry.repo}: found in {folder}, not checked")
    return found


def _require_writable(folder: Path) -> None:
    """Refuse a cache folder into which nothing can be downloaded.

    Raises:
        SettingError: with the reason.
    """
    hint = "set HF_HOME to a writable folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"weights cannot be stored in {folder}: {error.strerror}", hint
        ) from None
    if not os.access(folder, os.W_OK):
        raise SettingError(
            f"weights cannot be stored in {folder}: it is read-only for this user",
            f"{hint}, or HIGGS_OFFLINE=1 if the weights are already there",
        )


def _point_main_at(entry: WeightsRepo, folder: Path, commit: str) -> None:
    """Let the branch main, which the server loads, refer to the pinned commit."""
    reference = cache.reference_file(entry.repo, "main", folder)
    with suppress(OSError):
        if reference.read_text() == commit:
            return
    try:
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
    except OSError as error:
        raise NotCachedError(
            f"{reference} does not name {commit[:7]} and cannot be written: {error.strerror}",
            "make the cache writable for one start",
        ) from None
