"""What the values of versions.lock look like, and what to write instead of one that does not."""

from __future__ import annotations

from typing import Annotated

import msgspec

from higgs_image import variants


def _matching(pattern: str, remedy: str) -> msgspec.Meta:
    """Return a rule for a string. Values reach files and commands: none holds a line break."""
    REMEDIES[pattern] = remedy
    return msgspec.Meta(pattern=pattern)


REMEDIES: dict[str, str] = {}
"""Pattern of a value to what to write instead."""

Commit = Annotated[
    str, _matching(r"^[0-9a-f]{40}\Z", "write the full 40 hexadecimal digits of the git object id")
]
Sha256 = Annotated[
    str, _matching(r"^[0-9a-f]{64}\Z", "write the full 64 hexadecimal digits of the SHA-256")
]
Digest = Annotated[
    str,
    _matching(r"^sha256:[0-9a-f]{64}\Z", "write the digest as sha256: and 64 hexadecimal digits"),
]
GitUrl = Annotated[
    str,
    _matching(
        r"^(https|file)://[^\s@]+\Z", "write an https:// (or file://) URL without credentials"
    ),
]
RelativePath = Annotated[
    str,
    _matching(r"^(?!/)(?!.*\.\.)[^\s]+\Z", "write a path below the folder of versions.lock"),
]
PyVersion = Annotated[str, _matching(r"^3\.\d+\Z", "write major and minor version, such as 3.11")]
ImageName = Annotated[
    str, _matching(r"^\w[\w.:/-]*\Z", "write name and tag, such as debian:bookworm-slim")
]
AptLine = Annotated[
    str,
    _matching(
        r"^deb( \[[\w =./-]+\])? https?://[^\s@]+ [\w./-]+( [\w-]+)+\Z",
        "write it as apt has it, without credentials: deb http://host/archive suite main",
    ),
]
VariantName = Annotated[
    str, _matching(rf"^{variants.PATTERN}\Z", "write a name and a version, such as cuda12.8")
]
Word = Annotated[str, _matching(r"^\w[\w.+!-]*\Z", "use letters, digits and any of . _ + ! - only")]
HubName = Annotated[str, _matching(r"^[\w.-]+/[\w.-]+\Z", "write owner/name")]
Text = Annotated[str, _matching(r"^[^\x00-\x1f\x7f]+\Z", "write one line that is not empty")]
