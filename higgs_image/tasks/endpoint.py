"""RunPod's load-balanced endpoint: endpoint-gpus, -render, -plan, -apply, -check, -status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks._image import journal_of, open_image
from higgs_image.tasks._resource import APPLY_HELP, HELP, apply
from higgs_image.tasks._workspace import VARIANT_HELP, current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import JSON_HELP, output

if TYPE_CHECKING:
    from higgs_image.cloud.resource import ResourcePlan
    from higgs_image.release.journal import Journal


@contextmanager
def _planned(
    c: Context, image: str, moving: str, registry: str | None, name: str | None
) -> Iterator[tuple[Journal, ResourcePlan]]:
    """Yield the journal and what differs at RunPod."""
    from higgs_image.cloud import description, endpoint
    from higgs_image.cloud.runpod import client

    account, root = client.from_environment(), current_workspace().root
    wanted = description.load(root)
    with open_image(c, image or moving, registry, name) as (repository, what):
        history = journal_of(repository)
        yield history, endpoint.plan_for(account, wanted, history, what, root)


@task(name="endpoint-gpus", help=VARIANT_HELP | {"json": JSON_HELP})
def endpoint_gpus(_: Context, variant: str = "", json: bool = False) -> None:
    """List RunPod's GPU types for workers: price, listeners, and which fit the image."""
    from higgs_image import table
    from higgs_image.cloud import description, endpoint
    from higgs_image.cloud.runpod import client

    with output(json) as out:
        root = current_workspace().root
        wanted = description.load(root, variant)
        code = frozenset(wanted.gpu.capabilities)
        found = endpoint.gpus(client.from_environment(), wanted, code, root)
        rows = table.text([x.row() for x in found], right=[2])
        scale = f"one more worker above {wanted.endpoint.requests} requests for each"
        out.result({"gpus": found, "requests": wanted.endpoint.requests}, f"{rows}\n{scale}")


@task(name="endpoint-render", help=HELP)
def endpoint_render(
    c: Context,
    image: str = "",
    moving: str = "custom",
    registry: str | None = None,
    name: str | None = None,
    json: bool = False,
) -> None:
    """Print the endpoint as it would be sent to RunPod; its GPUs come from RunPod's catalogue."""
    import msgspec

    with output(json) as out, _planned(c, image, moving, registry, name) as (_, planned):
        text = msgspec.json.format(msgspec.json.encode(planned.wanted), indent=2).decode()
        out.result({"endpoint": msgspec.to_builtins(planned.wanted)}, text)


@task(name="endpoint-plan", help=HELP)
def endpoint_plan(
    c: Context,
    image: str = "",
    moving: str = "custom",
    registry: str | None = None,
    name: str | None = None,
    json: bool = False,
) -> None:
    """Show how RunPod's endpoint differs from deploy/template.toml and the promoted image."""
    with output(json) as out, _planned(c, image, moving, registry, name) as (_, planned):
        out.result(planned.plain(), planned.text())


@task(name="endpoint-apply", help=APPLY_HELP)
def endpoint_apply(
    c: Context,
    image: str = "",
    moving: str = "custom",
    device_class: str | None = None,
    rehearsal: bool = False,
    registry: str | None = None,
    name: str | None = None,
    json: bool = False,
) -> None:
    """Make or change RunPod's endpoint, and record it in the journal."""
    with output(json) as out, _planned(c, image, moving, registry, name) as (history, planned):
        done = apply(c, history, planned, device_class, rehearsal)
        out.result(done, done.text())


@task(name="endpoint-check", help=HELP)
def endpoint_check(
    c: Context,
    image: str = "",
    moving: str = "custom",
    registry: str | None = None,
    name: str | None = None,
    json: bool = False,
) -> None:
    """Fail if RunPod's endpoint is not what deploy/template.toml and the floating tag say."""
    with output(json) as out, _planned(c, image, moving, registry, name) as (_, planned):
        planned.require_agreement()
        out.result(planned.plain(), planned.text())


@task(name="endpoint-status", help=VARIANT_HELP | {"json": JSON_HELP})
def endpoint_status(_: Context, variant: str = "", json: bool = False) -> None:
    """Show the endpoint's URL and its workers."""
    from higgs_image.cloud import description, endpoint
    from higgs_image.cloud.runpod import client

    with output(json) as out:
        wanted = description.load(current_workspace().root, variant)
        found = endpoint.status(client.from_environment(), wanted)
        out.result(found, found.text())
