"""Templates for other platforms than RunPod's own: vast-render, hub-render."""

from __future__ import annotations

from pathlib import Path

from invoke.context import Context

from higgs_image.tasks._resource import RENTED, RentedImageFlags, as_json
from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output


@task(name="vast-render")
def vast_render(_: Context, out: Output, rented: RentedImageFlags = RENTED) -> None:
    """Print a template for Vast.ai, and the search for machines that fit; needs no account."""
    import msgspec

    from higgs_image.cloud import vast

    wanted, found = rented.find()
    body, search = vast.template(wanted, found.reference), vast.search(wanted)
    result = {"template": msgspec.to_builtins(body), "search": search}
    out.result(result, f"{as_json(body)}\n{search}")


@task(
    name="hub-render",
    help={"into": "folder that gets the files, such as .runpod (default: only print them)"},
)
def hub_render(_: Context, out: Output, rented: RentedImageFlags = RENTED, into: str = "") -> None:
    """Print the files of RunPod's hub; its GPUs come from RunPod's catalogue."""
    from higgs_image.cloud import endpoint
    from higgs_image.cloud.runpod import client, hub
    from higgs_image.files import write_atomically

    account = client.from_environment()
    wanted, found = rented.find()
    rated = endpoint.gpus(account, wanted, found.gpus, current_workspace().root)
    chosen = endpoint.choose(rated)
    made = hub.files(wanted, found.reference, chosen, rated[0].id)
    for file, content in made.items() if into else ():
        write_atomically(Path(into) / file, content.encode())
    out.result({"files": made}, "\n".join(f"--- {k}\n{v}" for k, v in made.items()))
