"""docker/layers.toml: how Python packages are spread over image layers, and the size budgets."""

from __future__ import annotations

import re

from higgs_image.errors import LockError

_REQUIREMENT = re.compile(
    r"([A-Za-z0-9][\w.-]*)(\[[^\]]*\])? ?== ?[\w.+!-]+"  # name[extras]==version
    r"( ?;((?! -).)*)?"  # a marker, no option
    r"( --hash=sha256:[0-9a-f]{64})+"
)


def requirements(text: str) -> dict[str, str]:
    """Split a hash-locked requirements file into its entries.

    Args:
        text: output of `uv pip compile --generate-hashes`.

    Returns:
        Normalised package name to its lines, comments left out, in the file's order.

    Raises:
        LockError: an entry is not pinned with `==`, has no hash, or an option line is in the file.
    """
    joined = re.sub(r"\\\n\s*", " ", text)
    entries: dict[str, str] = {}
    for line in joined.splitlines():
        bare = " ".join(re.sub(r"(^|\s)#.*", "", line).split())
        if not bare:
            continue
        match = _REQUIREMENT.fullmatch(bare)
        if not match:
            raise LockError(
                f"requirement {bare.split(' --hash')[0]!r} is not pinned with == and a hash",
                "make the file anew with: uv pip compile --generate-hashes",
            )
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        entry = bare.replace(" --hash", " \\\n    --hash")
        # the same package may stand there several times, with different markers
        entries[name] = f"{entries[name]}\n{entry}" if name in entries else entry
    return entries
