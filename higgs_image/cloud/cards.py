"""Compute capabilities of the GPUs that are rented: providers name cards, images have capabilities.

A card that is not known here is never rented: it might be one that the image has no code for.
"""

from __future__ import annotations

import re

_CARDS = (
    (r"\bG?B[12]00\b", "10.0"),
    (r"\bG?B300\b", "10.3"),
    (r"Blackwell|GeForce RTX 50\d\d", "12.0"),
    (r"\bG?H[12]00\b|\bH800\b", "9.0"),
    (r"\bL4\b|\bL40S?\b|GeForce RTX 40\d\d|Ada Generation", "8.9"),
    (r"\bA[18]00\b|\bA30\b", "8.0"),
    (r"\bA10G?\b|\bA16\b|\bA40\b|RTX A\d{4}|GeForce RTX 30\d\d", "8.6"),
    (r"\bT4\b|GeForce RTX 20\d\d|Quadro RTX", "7.5"),
    (r"\bV100\b", "7.0"),
)
"""Names and capabilities (developer.nvidia.com/cuda-gpus); the first that fits counts."""


def capability(name: str) -> str | None:
    """Return a card's compute capability; None: the card is not known.

    Args:
        name: as a provider or the driver has it, such as `NVIDIA GeForce RTX 4090`.
    """
    return next((value for pattern, value in _CARDS if re.search(pattern, name)), None)
