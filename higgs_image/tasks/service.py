"""invoke start, stop, logs, status: the image running on this machine."""

from __future__ import annotations

from invoke.context import Context

from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import JSON_HELP, output
from higgs_image.tasks.values import CONTAINER

_NAME = "higgs-audio"
_VALUES = {"name": CONTAINER}
_NAME_HELP = f"name of the container (default: {_NAME})"


@task(
    values=_VALUES,
    iterable=["env", "flag"],
    help={
        "image": "name or digest of the image (default: the one that was built last)",
        "name": _NAME_HELP,
        "port": "port on this machine (default: 8000)",
        "address": "address on which it is reached (default: 127.0.0.1, this machine alone)",
        "device": "gpu: real weights; cpu: the stand-in device and random weights; auto (default)",
        "gpus": "ids of GPUs, such as 0,1 (default: all)",
        "cache": "volume or folder for the real weights (default: the volume higgs-audio-weights)",
        "env": "variable for the container, as NAME=VALUE; can be given several times",
        "flag": "flag of the server, such as --max-model-len=4096; can be given several times",
        "wait": "until it is ready (default: yes)",
        "json": JSON_HELP,
    },
)
def start(
    _: Context,
    env: list[str],
    flag: list[str],
    image: str = "",
    name: str = _NAME,
    port: int = 8000,
    address: str = "127.0.0.1",
    device: str = "auto",
    gpus: str = "all",
    cache: str = "higgs-audio-weights",
    wait: bool = True,
    json: bool = False,
) -> None:
    """Run the last built or a named image here, and print its URL and a curl line that works."""
    from higgs_image.host import service

    with output(json) as out:
        options = service.Options(
            image=image, name=name, port=port, address=address, device=device, gpus=gpus,
            cache=cache, variables=tuple(env), arguments=tuple(flag), wait=wait,
        )  # fmt: skip
        found = service.start(current_workspace(), options)
        out.result(found, found.text())


@task(values=_VALUES, help={"name": _NAME_HELP, "json": JSON_HELP})
def stop(_: Context, name: str = _NAME, json: bool = False) -> None:
    """End the container that was started; running requests are finished."""
    from higgs_image.host import service

    with output(json) as out:
        found = service.stop(name)
        out.result(found, found.text())


@task(values=_VALUES, help={"name": _NAME_HELP, "json": JSON_HELP})
def status(_: Context, name: str = _NAME, json: bool = False) -> None:
    """Say whether it is loading, ready or ended, and how it is reached."""
    from higgs_image.host import service

    with output(json) as out:
        found = service.status(name)
        out.result(found, found.text())


@task(
    values=_VALUES,
    help={
        "name": _NAME_HELP,
        "follow": "go on until it ends",
        "tail": "only so many lines of its end (default: all)",
    },
)
def logs(_: Context, name: str = _NAME, follow: bool = False, tail: int = 0) -> None:
    """Print the log of the container that was started."""
    from higgs_image.host import service

    with output():
        for line in service.logs(name, follow=follow, tail=tail or None):
            print(line, flush=True)
