"""Facts about this image, written by its build: the tag, the pinned weights, the patches."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

FILE = "/usr/share/higgs-image/image.json"
"""Location of the facts; HIGGS_IMAGE_FILE overrides it."""


class PinnedRepo(NamedTuple):
    """A repository on the Hugging Face hub.

    Attributes:
        repo: owner and name.
        revision: the pinned commit; None if it is not pinned.
    """

    repo: str
    revision: str | None


class ImageFacts(NamedTuple):
    """The facts that the entrypoint needs.

    Attributes:
        tag: the image's immutable tag.
        generation: the speech model.
        audio_tokenizer: the codec between audio and tokens.
        semantic_model: the codec's semantic model, if it is a separate repository.
        patches: names of the patches applied to the server.
        gpus: compute capabilities that the image has code for; empty: those of all GPUs.
        variant: name of the image's variant; empty for the one without a name.
        cuda: the CUDA version of its PyTorch.
    """

    tag: str
    generation: PinnedRepo
    audio_tokenizer: PinnedRepo
    semantic_model: PinnedRepo | None
    patches: frozenset[str] = frozenset()
    gpus: frozenset[str] = frozenset()
    variant: str = ""
    cuda: str = "12.4"


def read() -> ImageFacts:
    """Read the facts of this image.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError, KeyError: its content is not what the build writes.
    """
    file = Path(os.environ.get("HIGGS_IMAGE_FILE") or FILE)
    facts = json.loads(file.read_text(encoding="utf-8"))
    weights = {
        role: PinnedRepo(entry["repo"], entry["revision"])
        for role, entry in facts["weights"].items()
    }
    return ImageFacts(
        tag=facts["tag"],
        generation=weights["generation"],
        audio_tokenizer=weights["audio-tokenizer"],
        semantic_model=weights.get("semantic-model"),
        patches=frozenset(patch["name"] for patch in facts["patches"]),
        gpus=frozenset(facts.get("gpus", ())),
        variant=facts.get("variant", ""),
        cuda=facts.get("cuda", "12.4"),
    )
