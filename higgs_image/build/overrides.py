"""What makes a build different from what the lock says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from higgs_image import variants
from higgs_image.build.layers import Layers
from higgs_image.errors import UsageError
from higgs_image.files import sha256_bytes
from higgs_image.labels import LABEL


@dataclass(frozen=True)
class Overrides:
    """What makes a build different from what the lock says.

    Such a build is never released, unless it only has the code for fewer GPUs.

    Attributes:
        base_image: reference used instead of the locked base.
        extra_ca: PEM file with CA certificates that the build steps trust.
        without: names of patches that are left out.
        gpus: compute capabilities, such as 8.9, of an image for fewer GPUs; none: all of
            docker/layers.toml.
    """

    base_image: str | None = None
    extra_ca: Path | None = None
    without: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is more than a reference in the Dockerfile, or not a file of CAs."""
        if self.base_image and not re.fullmatch(r"[\w.:/@\[\]-]+", self.base_image):
            raise UsageError(
                f"--base-image {self.base_image!r} is not an image reference",
                "give it as registry/name:tag or registry/name@sha256:...",
            )
        if self.extra_ca and b"-----BEGIN CERTIFICATE-----" not in self.extra_ca.read_bytes():
            raise UsageError(
                f"--extra-ca {self.extra_ca} is not a PEM file with certificates",
                "give a file that has -----BEGIN CERTIFICATE----- in it",
            )

    @property
    def mark(self) -> str:
        """End of the tag: GPUs as in `-sm89`, then `-dev-` and digits that stand for the rest."""
        what = repr((self.base_image, sorted(self.labels().items())))
        gpus = variants.gpus_suffix(self.gpus)
        return gpus + (f"-dev-{sha256_bytes(what.encode())[:7]}" if self.labels() else "")

    def gpus_of(self, plan: Layers) -> list[str]:
        """Return the GPUs that the image has code for.

        Raises:
            UsageError: one of them is not supported.
        """
        if unknown := [gpu for gpu in self.gpus if gpu not in plan.gpus]:
            others = [name for name, x in plan.variant.items() if unknown[0] in x.gpus]
            raise UsageError(
                f"--gpus {unknown[0]}: the image does not support this compute capability",
                f"use one or more of {', '.join(plan.gpus)} (gpus in docker/layers.toml)"
                + (f"; --variant {others[0]} has it" if others else ""),
            )
        return list(self.gpus or plan.gpus)

    def labels(self) -> dict[str, str]:
        """Return the labels that record the overrides in the image."""
        labels = {}
        overrides = [f"without-{name}" for name in sorted(self.without)]
        if self.base_image:
            overrides.insert(0, "base-image")
        if overrides:
            labels[LABEL + "overrides"] = " ".join(overrides)
        if self.extra_ca:
            labels[LABEL + "extra-ca-sha256"] = sha256_bytes(self.extra_ca.read_bytes())
        return labels
