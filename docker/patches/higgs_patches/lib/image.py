"""What the image knows of itself: the weights that it was made for, each at its revision.

The build writes it from versions.lock to /usr/share/higgs-image/image.json; HIGGS_IMAGE_FILE names
another file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

FILE = "/usr/share/higgs-image/image.json"


class ImageFileError(Exception):
    """The image's description is not what the build writes."""


@dataclass(frozen=True)
class Weights:
    """Weights on the model hub.

    Attributes:
        repo: owner/name.
        revision: commit; None if no revision is known to be the right one.
    """

    repo: str
    revision: str | None


def weights(role: str) -> Weights | None:
    """Return the weights that the image was made for, or None where the server runs outside it.

    Args:
        role: "generation", "audio-tokenizer" or "semantic-model".

    Raises:
        ImageFileError: the file is not what the build writes.
    """
    path = Path(os.environ.get("HIGGS_IMAGE_FILE") or FILE)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weights"].get(role)
        return Weights(found["repo"], found["revision"]) if found else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageFileError(f"{path} is no description of an image: {error!r}") from None
