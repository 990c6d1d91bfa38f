"""In-toto statements: what BuildKit and we attest of an image."""

from __future__ import annotations

import json
from pathlib import Path

from higgs_image.errors import BuildError
from higgs_image.oci.layout import blob, document

_REFERS = "vnd.docker.reference.digest"


def unwrap(layout: Path, digest: str) -> tuple[str, bytes]:
    """Return image manifest and provenance statement of an index that BuildKit wrote.

    Args:
        layout: the folder.
        digest: of the index.

    Returns:
        The digest of the image manifest, which the provenance does not change, and the in-toto
        statement about it.

    Raises:
        BuildError: the layout holds no such index.
    """
    try:
        entries = document(layout, digest)["manifests"]
        (image,) = [x for x in entries if _REFERS not in x.get("annotations", {})]
        (about,) = [x for x in entries if x.get("annotations", {}).get(_REFERS) == image["digest"]]
        (layer,) = document(layout, about["digest"])["layers"]
        statement = blob(layout, layer["digest"]).read_bytes()
        (subject,) = json.loads(statement)["subject"]
        if f"sha256:{subject['digest']['sha256']}" != image["digest"]:
            raise ValueError(f"its provenance is about {subject['digest']['sha256']}")
        return str(image["digest"]), statement
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(
            f"{layout} does not hold an image with its provenance at {digest}: {error}",
            f"remove {layout} and build again",
        ) from None


def predicate(statement: bytes) -> bytes:
    """Return the predicate of an in-toto statement: what it says of its subject."""
    return json.dumps(json.loads(statement)["predicate"]).encode()
