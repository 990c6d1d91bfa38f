"""Variants: images of the same fork, patches and pipeline from another set of pins.

versions.lock has their pins and docker/layers.toml their GPUs and budgets. The default image has
the name "". Each image can also be built for fewer GPUs (`--gpus`).
"""

from __future__ import annotations

from collections.abc import Iterable

PATTERN = r"[a-z]+\d+\.\d+"
"""A variant's name, such as cuda12.8."""

TAG_END = rf"(-{PATTERN})?(-zstd)?(-sm\d{{2,3}})*"
"""What tells the tags of one lock's images apart: variant, compression, fewer GPUs."""


def suffix(variant: str) -> str:
    """Return what a variant appends to tags and to the names of files below build/."""
    return f"-{variant}" if variant else ""


def gpus_suffix(gpus: Iterable[str]) -> str:
    """Return what an image for fewer GPUs appends to tags: `-sm89` for 8.9."""
    return "".join(f"-sm{gpu.replace('.', '')}" for gpu in gpus)
