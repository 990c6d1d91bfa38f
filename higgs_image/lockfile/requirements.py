"""Hash-locked requirements files, as `uv pip compile --generate-hashes` writes them."""

from __future__ import annotations

import re

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from higgs_image.errors import LockError
from higgs_image.lockfile.schema import WheelPin

_HASHES = re.compile(r"(.*?)((?: --hash=sha256:[0-9a-f]{64})+)")


def requirements(text: str) -> dict[str, str]:
    """Split a hash-locked requirements file into its entries.

    Args:
        text: output of `uv pip compile --generate-hashes`.

    Returns:
        Normalised package name to its lines, comments left out, in the file's order.

    Raises:
        LockError: an entry is not pinned with `==`, has no hash, or an option line is in the file.
    """
    entries: dict[str, str] = {}
    for name, _, entry in _entries(text):
        # the same package may stand there several times, with different markers
        entries[name] = f"{entries[name]}\n{entry}" if name in entries else entry
    return entries


def wheel_entry(wheel: WheelPin) -> str:
    """Return the entry of a requirements file for a wheel."""
    return f"{wheel.name}=={wheel.version} \\\n    --hash=sha256:{wheel.sha256}"


def versions(text: str) -> dict[str, str]:
    """Return normalised package name to version; several, one for each marker, with a comma.

    Raises:
        LockError: see `requirements`.
    """
    found: dict[str, str] = {}
    for name, version, _ in _entries(text):
        found[name] = f"{found[name]}, {version}" if name in found else version
    return found


def _entries(text: str) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        bare = " ".join(re.sub(r"(^|\s)#.*", "", line).split())
        if not bare:
            continue
        match = _HASHES.fullmatch(bare)
        try:
            parsed = Requirement(match[1] if match else "")
            (pin,) = parsed.specifier
            if parsed.url or pin.operator != "==" or pin.version.endswith("*"):
                raise ValueError
        except (InvalidRequirement, ValueError):
            raise LockError(
                f"requirement {bare.split(' --hash')[0]!r} is not pinned with == and a hash",
                "create the file again with: uv pip compile --generate-hashes",
            ) from None
        entry = bare.replace(" --hash", " \\\n    --hash")
        found.append((canonicalize_name(parsed.name), pin.version, entry))
    return found
