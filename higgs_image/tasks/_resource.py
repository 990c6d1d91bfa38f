"""What the tasks of RunPod's template and endpoint share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks._image import CONDITIONS_HELP, REGISTRY_HELP, open_image
from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.output import setting

if TYPE_CHECKING:
    from higgs_image.cloud.description import TemplateDescription
    from higgs_image.cloud.image_rules import RentedImage
    from higgs_image.cloud.resource import AppliedResource, ResourcePlan
    from higgs_image.release.journal import Journal

HELP = {
    "image": "digest or tag, or its full name (default: what the floating tag names)",
    "moving": "the floating tag (default: custom)",
} | REGISTRY_HELP
APPLY_HELP = HELP | {x: CONDITIONS_HELP[x] for x in ("device_class", "rehearsal")}


def find(
    c: Context, image: str, moving: str, registry: str | None, name: str | None
) -> tuple[TemplateDescription, RentedImage]:
    """Return what deploy/template.toml says, and the image that it is to name."""
    from higgs_image.cloud import description, image_rules
    from higgs_image.release.journal import Journal

    wanted = description.load(current_workspace().root)
    with open_image(c, image or moving, registry, name) as (repository, what):
        found = image_rules.find(Journal(repository), what, wanted)
        return wanted.for_variant(found.variant), found


def apply(
    c: Context, history: Journal, planned: ResourcePlan, device_class: str | None, rehearsal: bool
) -> AppliedResource:
    """Apply a plan for an image that a floating tag may name, too."""
    from higgs_image.cloud import image_rules, resource
    from higgs_image.cloud.runpod import client
    from higgs_image.release.promote import PromotionConditions

    conditions = PromotionConditions(setting(c, "device_class", device_class), rehearsal=rehearsal)
    conditions.require_valid(history.repository.name)
    image_rules.require_promotable(history, planned.image.digest, conditions)
    return resource.apply(client.from_environment(), history, planned)
