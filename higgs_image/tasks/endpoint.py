"""RunPod's load-balanced endpoint: endpoint-gpus, -render, -plan, -apply, -check, -status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks._resource import APPLY_HELP, RENTED, RentedImageFlags, apply, as_json
from higgs_image.tasks._workspace import VARIANT_HELP, current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output

if TYPE_CHECKING:
    from higgs_image.cloud.resource import ResourcePlan
    from higgs_image.release.journal import Journal


@contextmanager
def _planned(rented: RentedImageFlags) -> Iterator[tuple[Journal, ResourcePlan]]:
    """Yield the journal and what differs at RunPod."""
    from higgs_image.cloud import description, endpoint
    from higgs_image.cloud.runpod import client

    account, root = client.from_environment(), current_workspace().root
    wanted = description.load(root)
    with rented.opened() as (history, what):
        yield history, endpoint.plan_for(account, wanted, history, what, root)


@task(name="endpoint-gpus", help=VARIANT_HELP)
def endpoint_gpus(_: Context, out: Output, variant: str = "") -> None:
    """List RunPod's GPU types for workers: price, listeners, and which fit the image."""
    from higgs_image import table
    from higgs_image.cloud import description, endpoint
    from higgs_image.cloud.runpod import client

    root = current_workspace().root
    wanted = description.load(root, variant)
    code = frozenset(wanted.gpu.capabilities)
    found = endpoint.gpus(client.from_environment(), wanted, code, root)
    rows = table.text([x.row() for x in found], right=[2])
    scale = f"one more worker above {wanted.endpoint.requests} requests for each"
    out.result({"gpus": found, "requests": wanted.endpoint.requests}, f"{rows}\n{scale}")


@task(name="endpoint-render")
def endpoint_render(_: Context, out: Output, rented: RentedImageFlags = RENTED) -> None:
    """Print the endpoint as it would be sent to RunPod; its GPUs come from RunPod's catalogue."""
    import msgspec

    with _planned(rented) as (_history, planned):
        out.result({"endpoint": msgspec.to_builtins(planned.wanted)}, as_json(planned.wanted))


@task(name="endpoint-plan")
def endpoint_plan(_: Context, out: Output, rented: RentedImageFlags = RENTED) -> None:
    """Show how RunPod's endpoint differs from deploy/template.toml and the promoted image."""
    with _planned(rented) as (_history, planned):
        out.result(planned.plain(), planned.text())


@task(name="endpoint-apply", help=APPLY_HELP)
def endpoint_apply(
    _: Context,
    out: Output,
    device_class: str = "",
    rehearsal: bool = False,
    rented: RentedImageFlags = RENTED,
) -> None:
    """Make or change RunPod's endpoint, and record it in the journal."""
    with _planned(rented) as (history, planned):
        done = apply(history, planned, device_class, rehearsal)
        out.result(done, done.text())


@task(name="endpoint-check")
def endpoint_check(_: Context, out: Output, rented: RentedImageFlags = RENTED) -> None:
    """Fail if RunPod's endpoint is not what deploy/template.toml and the floating tag say."""
    with _planned(rented) as (_history, planned):
        planned.require_agreement()
        out.result(planned.plain(), planned.text())


@task(name="endpoint-status", help=VARIANT_HELP)
def endpoint_status(_: Context, out: Output, variant: str = "") -> None:
    """Show the endpoint's URL and its workers."""
    from higgs_image.cloud import description, endpoint
    from higgs_image.cloud.runpod import client

    wanted = description.load(current_workspace().root, variant)
    found = endpoint.status(client.from_environment(), wanted)
    out.result(found, found.text())
