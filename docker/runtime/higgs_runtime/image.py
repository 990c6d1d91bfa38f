"""Facts about the image: which weights it was made for. The image's build wrote them."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

FILE = "/usr/share/higgs-image/image.json"
"""Where they lie; HIGGS_IMAGE_FILE names another place."""


class Weights(NamedTuple):
    """A repository on the Hugging Face hub.

    Attributes:
        repo: owner and name.
        revision: the pinned commit; None where there is none.
    """

    repo: str
    revision: str | None


class Image(NamedTuple):
    """What the start code needs to know.

    Attributes:
        tag: the image's immutable tag.
        generation: the speech model.
        audio_tokenizer: the codec between sound and tokens.
        semantic_model: a part of the codec, if it is a repository of its own.
        patches: names of the patches that the server has.
    """

    tag: str
    generation: Weights
    audio_tokenizer: Weights
    semantic_model: Weights | None
    patches: frozenset[str] = frozenset()


def read() -> Image:
    """Read the facts of this image.

    Raises:
        OSError: the file is not there.
        ValueError, KeyError: it is not what the build writes.
    """
    with open(os.environ.get("HIGGS_IMAGE_FILE") or FILE, encoding="utf-8") as file:  # noqa: PTH123
        facts = json.load(file)
    weights = {
        role: Weights(entry["repo"], entry["revision"]) for role, entry in facts["weights"].items()
    }
    return Image(
        tag=facts["tag"],
        generation=weights["generation"],
        audio_tokenizer=weights["audio-tokenizer"],
        semantic_model=weights.get("semantic-model"),
        patches=frozenset(patch["name"] for patch in facts["patches"]),
    )
