"""RunPod's template: template-render, template-plan, template-apply, template-check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks._resource import APPLY_HELP, RENTED, RentedImageFlags, apply, as_json
from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output

if TYPE_CHECKING:
    from higgs_image.cloud.resource import ResourcePlan
    from higgs_image.release.journal import Journal

_SERVERLESS = {"serverless": "the variant for workers behind a load balancer"}


@contextmanager
def _planned(rented: RentedImageFlags, serverless: bool) -> Iterator[tuple[Journal, ResourcePlan]]:
    """Yield the journal and what differs at RunPod."""
    from higgs_image.cloud import description, template
    from higgs_image.cloud.runpod import client

    account = client.from_environment()
    wanted = description.load(current_workspace().root)
    with rented.opened() as (history, what):
        yield history, template.plan_for(account, wanted, history, what, serverless=serverless)


@task(name="template-render", help=_SERVERLESS)
def template_render(
    _: Context, out: Output, rented: RentedImageFlags = RENTED, serverless: bool = False
) -> None:
    """Print the template as it would be sent to RunPod; needs no account."""
    import msgspec

    from higgs_image.cloud.runpod import render

    wanted, found = rented.find()
    body = render.template(wanted, found.reference, serverless=serverless)
    out.result({"template": msgspec.to_builtins(body)}, as_json(body))


@task(name="template-plan", help=_SERVERLESS)
def template_plan(
    _: Context, out: Output, rented: RentedImageFlags = RENTED, serverless: bool = False
) -> None:
    """Show how RunPod's template differs from deploy/template.toml and the promoted image."""
    with _planned(rented, serverless) as (_history, planned):
        out.result(planned.plain(), planned.text())


@task(name="template-apply", help=APPLY_HELP | _SERVERLESS)
def template_apply(
    _: Context,
    out: Output,
    device_class: str = "",
    rehearsal: bool = False,
    rented: RentedImageFlags = RENTED,
    serverless: bool = False,
) -> None:
    """Make or change RunPod's template, and record it in the journal."""
    with _planned(rented, serverless) as (history, planned):
        done = apply(history, planned, device_class, rehearsal)
        out.result(done, done.text())


@task(name="template-check", help=_SERVERLESS)
def template_check(
    _: Context, out: Output, rented: RentedImageFlags = RENTED, serverless: bool = False
) -> None:
    """Fail if RunPod's template is not what deploy/template.toml and the floating tag say."""
    with _planned(rented, serverless) as (_history, planned):
        planned.require_agreement()
        out.result(planned.plain(), planned.text())
