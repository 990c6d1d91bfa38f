"""Labels of the image: what it was made from, readable without running it."""

from collections.abc import Mapping

LABEL = "org.higgs-image."
"""Prefix of the project's own labels; the others are OCI's standard ones."""

VARIANT = LABEL + "variant"
"""Which of the fork's images it is; the default image has no such label."""


ONLY_GPUS = LABEL + "only-gpus"
"""Compute capabilities of an image for fewer GPUs than its variant; no other image has it."""


def is_fake_fork(labels: Mapping[str, str]) -> bool:
    """Tell whether an image was built from a fake fork: its source is a folder of one machine."""
    return labels.get(LABEL + "fork", "").startswith("file://")
