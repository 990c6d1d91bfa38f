"""RunPod's template: template-render, template-plan, template-apply, template-check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks._image import CONDITIONS_HELP, REGISTRY_HELP, journal_of, open_image
from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import output, setting

if TYPE_CHECKING:
    from higgs_image.cloud.template import TemplatePlan
    from higgs_image.release.journal import Journal

HELP = {
    "image": "digest or tag, or its full name (default: what the floating tag names)",
    "moving": "the floating tag (default: custom)",
    "serverless": "the variant for workers behind a load balancer",
} | REGISTRY_HELP
_CONDITIONS = {x: CONDITIONS_HELP[x] for x in ("device_class", "rehearsal")}


@contextmanager
def _planned(
    c: Context, image: str, moving: str, registry: str | None, name: str | None, serverless: bool
) -> Iterator[tuple[Journal, TemplatePlan]]:
    """Yield the journal and what differs at RunPod."""
    from higgs_image.cloud import description, template
    from higgs_image.cloud.runpod import client

    account = client.from_environment()
    wanted = description.load(current_workspace().root)
    with open_image(c, image or moving, registry, name) as (repository, what):
        history = journal_of(repository)
        yield (
            history,
            template.plan_for(account, wanted, history, what, serverless=serverless),
        )


@task(name="template-render", help=HELP)
def template_render(
    c: Context,
    image: str = "",
    moving: str = "custom",
    serverless: bool = False,
    registry: str | None = None,
    name: str | None = None,
    json: bool = False,
) -> None:
    """Print the template as it would be sent to RunPod; needs no account."""
    import msgspec

    from higgs_image.cloud import description, image_rules
    from higgs_image.cloud.runpod import render
    from higgs_image.release.journal import Journal

    with output(json) as out:
        wanted = description.load(current_workspace().root)
        with open_image(c, image or moving, registry, name) as (repository, what):
            found = image_rules.find(Journal(repository), what, wanted)
        body = render.template(wanted, found.reference, serverless=serverless)
        text = msgspec.json.format(msgspec.json.encode(body), indent=2).decode()
        out.result({"template": msgspec.to_builtins(body)}, text)


@task(name="template-plan", help=HELP)
def template_plan(
    c: Context,
    image: str = "",
    moving: str = "custom",
    serverless: bool = False,
    registry: str | None = None,
    name: str | None = None,
    json: bool = False,
) -> None:
    """Show how RunPod's template differs from deploy/template.toml and the promoted image."""
    with (
        output(json) as out,
        _planned(c, image, moving, registry, name, serverless) as (_, planned),
    ):
        out.result(_plain(planned), planned.text())


@task(name="template-apply", help=HELP | _CONDITIONS)
def template_apply(
    c: Context,
    image: str = "",
    moving: str = "custom",
    serverless: bool = False,
    device_class: str | None = None,
    rehearsal: bool = False,
    registry: str | None = None,
    name: str | None = None,
    json: bool = False,
) -> None:
    """Make or change RunPod's template, and record it in the journal."""
    from higgs_image.cloud import image_rules, template
    from higgs_image.cloud.runpod import client
    from higgs_image.release.promote import PromotionConditions

    with (
        output(json) as out,
        _planned(c, image, moving, registry, name, serverless) as (history, planned),
    ):
        conditions = PromotionConditions(setting(c, "device_class", device_class),
                                         rehearsal=rehearsal)  # fmt: skip
        conditions.require_valid(history.repository.name)
        image_rules.require_promotable(history, planned.image.digest, conditions)
        done = template.apply(client.from_environment(), history, planned)
        out.result(done, done.text())


@task(name="template-check", help=HELP)
def template_check(
    c: Context,
    image: str = "",
    moving: str = "custom",
    serverless: bool = False,
    registry: str | None = None,
    name: str | None = None,
    json: bool = False,
) -> None:
    """Fail if RunPod's template is not what deploy/template.toml and the floating tag say."""
    from higgs_image.cloud import template

    with (
        output(json) as out,
        _planned(c, image, moving, registry, name, serverless) as (_, planned),
    ):
        template.require_agreement(planned)
        out.result(_plain(planned), planned.text())


def _plain(planned: TemplatePlan) -> dict[str, object]:
    return {
        "name": planned.name,
        "template": planned.template,
        "image": planned.image.reference,
        "changes": planned.changes,
    }
