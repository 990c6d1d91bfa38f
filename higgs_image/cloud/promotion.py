"""Promotion and rollback together with the template, so that both name the same image.

The template is planned first, which only reads: what RunPod would refuse is known before the tag
moves. Then the tag moves, and the template follows it. If that fails, the template goes on naming
the image before, which had passed, too; running it again finishes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from higgs_image.cloud import image_rules, resource, template
from higgs_image.cloud.description import TemplateDescription
from higgs_image.cloud.resource import AppliedResource, ResourcePlan
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.errors import HiggsError
from higgs_image.release import move_plan, promote
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import Moved, MovePlan
from higgs_image.release.promote import PromotionConditions
from higgs_image.workspace import Workspace


@dataclass(frozen=True)
class TemplateTarget:
    """The template that follows the floating tag.

    Attributes:
        account: at RunPod.
        description: the container.
    """

    account: RunPodClient
    description: TemplateDescription

    def plan(self, history: Journal, what: str, conditions: PromotionConditions) -> ResourcePlan:
        """Plan the template for an image that may be promoted. Reads only.

        Args:
            history: the journal of the image's repository.
            what: a digest or tag.
            conditions: of a promotion.

        Raises:
            ReleaseRefusedError: the image may not be promoted.
            HiggsError: it cannot be pulled, or RunPod refused a request.
        """
        planned = template.plan_for(self.account, self.description, history, what)
        image_rules.require_promotable(history, planned.image.digest, conditions)
        return planned


def promote_with_template(
    history: Journal,
    what: str,
    conditions: PromotionConditions,
    workspace: Workspace,
    target: TemplateTarget,
) -> tuple[Moved, Path, AppliedResource]:
    """Promote an image, then let the template name it.

    Returns:
        What was done to the tag, the file with the notes, and what was done to the template.

    Raises:
        HiggsError: nothing was moved, or the message says that the tag was.
    """
    move_plan.settle(history)
    promote.plan_promotion(history, what, conditions)
    planned = target.plan(history, what, conditions)
    moved, notes = promote.promote_with_notes(history, what, conditions, workspace)
    return moved, notes, _follow(target, history, planned, moved)


def roll_back_with_template(
    history: Journal, steps: MovePlan, conditions: PromotionConditions, target: TemplateTarget
) -> tuple[Moved, AppliedResource]:
    """Apply a planned rollback, then let the template name the image.

    Raises:
        HiggsError: nothing was moved, or the message says that the tag was.
    """
    planned = target.plan(history, steps.move.digest, conditions)
    moved = move_plan.apply(history, steps)
    return moved, _follow(target, history, planned, moved)


def _follow(
    target: TemplateTarget, history: Journal, planned: ResourcePlan, moved: Moved
) -> AppliedResource:
    try:
        return resource.apply(target.account, history, planned)
    except HiggsError as error:
        raise type(error)(
            f"{moved.reference} is {moved.digest}, its template is not: {error.message}",
            f"{error.hint}; then finish it: ./inv template-apply",
        ) from None
