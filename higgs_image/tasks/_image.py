"""What tasks on images in a registry share: flags, the repository, and its journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import FlagGroup

if TYPE_CHECKING:
    from higgs_image.build.overrides import Overrides
    from higgs_image.release.journal import Journal
    from higgs_image.release.promote import PromotionConditions

IMAGE_HELP = "digest or immutable tag of a pushed image, or its full name"


@dataclass(frozen=True)
class ImagePlace(FlagGroup):
    """Where images are: `registry` is host and path."""

    HELP: ClassVar = {
        "registry": "registry and path (default: REGISTRY, then invoke.yaml)",
        "name": "name of the image (default: IMAGE_NAME, then invoke.yaml)",
    }

    registry: str = ""
    name: str = ""

    def repository(self) -> str:
        """Return host and path of the images.

        Raises:
            UsageError: no registry is set.
        """
        from higgs_image.errors import UsageError
        from higgs_image.oci import reference

        if not self.registry:
            raise UsageError(
                "no registry is set",
                "set REGISTRY=ghcr.io/your-org, or use --registry or invoke.yaml",
            )
        return reference.repository(self.registry, self.name)

    def journal(self) -> AbstractContextManager[Journal]:
        """Return the journal of the images, while it is open."""
        return _journal(self.repository())

    @contextmanager
    def image(self, image: str) -> Iterator[tuple[Journal, str]]:
        """Yield journal and tag or digest; an image's full name names its repository itself."""
        from higgs_image.oci.reference import split

        target, what = split(image) if "/" in image else (self.repository(), image)
        with _journal(target) as history:
            yield history, what


@contextmanager
def _journal(target: str) -> Iterator[Journal]:
    from higgs_image.oci.artifacts import open_repository
    from higgs_image.release.journal import Journal

    with open_repository(target) as repository:
        yield Journal(repository, current_workspace().build / "journal")


@dataclass(frozen=True)
class BuildFlags(FlagGroup):
    """What deviates from the lock in a build on this machine."""

    HELP: ClassVar = {
        "base_image": "build on this image instead of the locked one (the result is marked -dev)",
        "extra_ca": "PEM file with CA certificates that the build must trust, such as a proxy's "
        "(the result is marked -dev)",
    }

    base_image: str = ""
    extra_ca: Path | None = None

    def overrides(self, without: list[str] | None = None, gpus: str = "") -> Overrides:
        """Return them, with patches that are left out and GPUs such as `8.6,8.9`."""
        from higgs_image.build.overrides import Overrides

        return Overrides(
            self.base_image or None,
            self.extra_ca,
            tuple(sorted(set(without or ()))),
            tuple(sorted(set(gpus.split(",")), key=float)) if gpus else (),
        )


@dataclass(frozen=True)
class PromotionFlags(FlagGroup):
    """What a promotion requires: see `PromotionConditions`."""

    HELP: ClassVar = {
        "device_class": "gpu or cpu: on which the smoke test must have passed (default: "
        "DEVICE_CLASS, then invoke.yaml)",
        "force": "override refusals; requires --reason; recorded in the journal",
        "reason": "why; recorded in the journal",
        "rehearsal": "only with a registry on loopback: allow a fake fork and overridden builds",
        "not_worse_than": "share, such as 0.1: require a benchmark on a GPU (./inv smoke-pushed "
        "--bench) that is at most that much worse than the last release's",
    }

    device_class: str = ""
    force: bool = False
    reason: str = ""
    rehearsal: bool = False
    not_worse_than: float | None = None

    def conditions(self) -> PromotionConditions:
        """Return them."""
        from higgs_image.release.promote import PromotionConditions

        return PromotionConditions(**asdict(self))


PLACE, BUILD_FLAGS, PROMOTION = ImagePlace(), BuildFlags(), PromotionFlags()
"""Defaults of parameters."""
