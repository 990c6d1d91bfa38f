"""The template at RunPod."""

from __future__ import annotations

from higgs_image.cloud import image_rules, resource
from higgs_image.cloud.description import TemplateDescription
from higgs_image.cloud.image_rules import RentedImage
from higgs_image.cloud.resource import ResourceKind, ResourcePlan
from higgs_image.cloud.runpod import render
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import (
    ListTemplatesResponse,
    Template,
    UpdateTemplateRequest,
)
from higgs_image.release.journal import Journal
from higgs_image.release.records import TemplateUpdate

PATH = "/v2/templates"
KIND = ResourceKind(
    word="template",
    path=PATH,
    answer=Template,
    listed=lambda account: account.get(PATH, ListTemplatesResponse).templates,
    change=UpdateTemplateRequest,
    record=TemplateUpdate,
    link="https://console.runpod.io/deploy?template={id}",
)


def plan(
    account: RunPodClient,
    description: TemplateDescription,
    image: RentedImage,
    *,
    serverless: bool = False,
) -> ResourcePlan:
    """Compare the template at RunPod with the description. Reads only.

    Args:
        account: at RunPod.
        description: the container.
        image: that the template is to name.
        serverless: the variant for workers behind a load balancer.

    Raises:
        UsageError: two templates have the name, or RunPod does not have the registry's login.
        CloudRefusedError: the description is not valid for RunPod.
        HiggsError: RunPod refused the request or did not answer.
    """
    description = description.for_variant(image.variant)
    wanted = render.template(description, image.reference, serverless=serverless)
    resource.require_login(account, description.image.registry_login)
    return resource.compare(KIND, KIND.find(account, wanted.name), wanted, wanted.name, image)


def plan_for(
    account: RunPodClient,
    description: TemplateDescription,
    history: Journal,
    what: str,
    *,
    serverless: bool = False,
) -> ResourcePlan:
    """Plan the template for an image of a repository: see `plan`.

    Args:
        account: at RunPod.
        description: the container.
        history: the journal of the image's repository.
        what: a digest or tag.
        serverless: the variant for workers behind a load balancer.

    Raises:
        HiggsError: there is no such image, or RunPod cannot pull it or has no GPU for it.
    """
    image_rules.require_reachable(history.repository, account.api)
    image = image_rules.find(history, what, description)
    return plan(account, description, image, serverless=serverless)
