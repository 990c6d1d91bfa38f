"""Unknown fields of a request that ask for another voice: refused, never dropped.

Servers and clients have many names for them (`speaker_wav`, `reference_id`, `audioPrompt`), so they
are known by their words. Without them an answer would have a wrong voice, and nothing would say so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from higgs_patches.lib.errors import RefusedError

_ALONE = frozenset({"ref", "reference", "references", "samples", "voice", "voices"})
"""Names that ask for a voice."""

_SPEAKERS = frozenset({"clone", "cloned", "cloning", "speaker", "speakers", "spk"})
"""Words that ask for a voice wherever they stand."""

_SOURCES = frozenset({"audio", "prompt", "ref", "reference", "references", "sample", "voice"})
"""Words that do so together with one of `_FORMS`."""

_FORMS = frozenset({
    "audio", "base64", "b64", "embedding", "embeddings", "file", "id", "ids", "latents", "name",
    "path", "sample", "samples", "speech", "text", "transcript", "url", "urls", "voice", "wav",
})  # fmt: skip

_HARMLESS = frozenset({"boost", "format", "language", "quality", "rate", "settings", "speed"})
"""Words of fields that only say how a voice is to sound."""


def asks_for_a_voice(name: str) -> bool:
    """Return whether an unknown field of this name asks for another voice."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    words = set(re.findall(r"[a-z0-9]+", snake))
    if words & _HARMLESS:
        return False
    return (
        snake in _ALONE
        or bool(words & _SPEAKERS)
        or any(words & _FORMS - {source} for source in words & _SOURCES)
    )


def refuse_other_voices(data: Mapping[str, Any], known: Collection[str], hint: str) -> None:
    """Refuse a request with an unknown field for a voice.

    Args:
        data: the fields of the request.
        known: names of those that are read.
        hint: how to ask for a voice here.

    Raises:
        RefusedError: names the field.
    """
    for name, value in data.items():
        if name in known or value is None or value is False or value in ("", [], {}):
            continue
        if name == "extra_body":  # the name by which OpenAI's client takes further fields
            raise RefusedError("is not read: put its fields into the request itself", name)
        if asks_for_a_voice(name):
            raise RefusedError(f"is not supported: {hint}", name)
