"""What the tasks of RunPod's template and endpoint share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from higgs_image.tasks._image import ImagePlace, PromotionFlags
from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import FlagGroup

if TYPE_CHECKING:
    from higgs_image.cloud.description import TemplateDescription
    from higgs_image.cloud.image_rules import RentedImage
    from higgs_image.cloud.resource import AppliedResource, ResourcePlan
    from higgs_image.release.journal import Journal

APPLY_HELP = {x: PromotionFlags.HELP[x] for x in ("device_class", "rehearsal")}


@dataclass(frozen=True)
class RentedImageFlags(FlagGroup):
    """An image to rent a GPU for: `image`, or what the floating tag `moving` names."""

    HELP: ClassVar = {
        "image": "digest or tag, or its full name (default: what the floating tag names)",
        "moving": "the floating tag (default: custom)",
    } | ImagePlace.HELP

    image: str = ""
    moving: str = "custom"
    registry: str = ""
    name: str = ""

    def opened(self) -> AbstractContextManager[tuple[Journal, str]]:
        """Return the journal of its repository, while it is open, and its tag or digest."""
        return ImagePlace(self.registry, self.name).image(self.image or self.moving)

    def find(self) -> tuple[TemplateDescription, RentedImage]:
        """Return what deploy/template.toml says, and the image that it is to name."""
        from higgs_image.cloud import description, image_rules

        wanted = description.load(current_workspace().root)
        with self.opened() as (history, what):
            found = image_rules.find(history, what, wanted)
            return wanted.for_variant(found.variant), found


RENTED = RentedImageFlags()
"""Default of a parameter."""


def apply(
    history: Journal, planned: ResourcePlan, device_class: str, rehearsal: bool
) -> AppliedResource:
    """Apply a plan for an image that a floating tag may name, too."""
    from higgs_image.cloud import image_rules, resource
    from higgs_image.cloud.runpod import client
    from higgs_image.release.promote import PromotionConditions

    conditions = PromotionConditions(device_class, rehearsal=rehearsal)
    conditions.require_valid(history.repository.name)
    image_rules.require_promotable(history, planned.image.digest, conditions)
    return resource.apply(client.from_environment(), history, planned)


def as_json(body: Any) -> str:
    """Return what is sent to a platform as JSON that a person can read."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()
