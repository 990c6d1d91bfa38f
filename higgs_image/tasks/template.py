"""RunPod's template: template-render, template-plan, template-apply, template-check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks._image import journal_of, open_image
from higgs_image.tasks._resource import APPLY_HELP, HELP, apply, find
from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import output

if TYPE_CHECKING:
    from higgs_image.cloud.resource import ResourcePlan
    from higgs_image.release.journal import Journal

_SERVERLESS = {"serverless": "the variant for workers behind a load balancer"}


@contextmanager
def _planned(
    c: Context, image: str, moving: str, registry: str | None, name: str | None, serverless: bool
) -> Iterator[tuple[Journal, ResourcePlan]]:
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


@task(name="template-render", help=HELP | _SERVERLESS)
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

    from higgs_image.cloud.runpod import render

    with output(json) as out:
        wanted, found = find(c, image, moving, registry, name)
        body = render.template(wanted, found.reference, serverless=serverless)
        text = msgspec.json.format(msgspec.json.encode(body), indent=2).decode()
        out.result({"template": msgspec.to_builtins(body)}, text)


@task(name="template-plan", help=HELP | _SERVERLESS)
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
        out.result(planned.plain(), planned.text())


@task(name="template-apply", help=APPLY_HELP | _SERVERLESS)
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
    with (
        output(json) as out,
        _planned(c, image, moving, registry, name, serverless) as (history, planned),
    ):
        done = apply(c, history, planned, device_class, rehearsal)
        out.result(done, done.text())


@task(name="template-check", help=HELP | _SERVERLESS)
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
    with (
        output(json) as out,
        _planned(c, image, moving, registry, name, serverless) as (_, planned),
    ):
        planned.require_agreement()
        out.result(planned.plain(), planned.text())
