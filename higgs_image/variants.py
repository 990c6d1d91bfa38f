"""Variants: images of the same fork, patches and pipeline from another set of pins.

versions.lock has their pins and docker/layers.toml their GPUs and budgets. The default image has
the name "".
"""


def suffix(variant: str) -> str:
    """Return what a variant appends to tags and to the names of files below build/."""
    return f"-{variant}" if variant else ""
