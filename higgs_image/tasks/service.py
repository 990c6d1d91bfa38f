"""./inv start, stop, logs, status, generate: the image on this machine."""

from __future__ import annotations

from invoke.context import Context

from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output
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
        "device": "gpu: real weights; cpu: the CPU device and random weights; auto (default)",
        "gpus": "ids of GPUs, such as 0,1 (default: all)",
        "cache": "volume or folder for the real weights (default: the volume higgs-audio-weights)",
        "env": "variable for the container, as NAME=VALUE; can be given several times; "
        "HIGGS_GENERATE_PORT=8888 adds POST /generate and its page on that port",
        "flag": "flag of the server, such as --max-model-len=4096; can be given several times",
        "wait": "wait until it is ready (default: yes)",
    },
)
def start(
    _: Context,
    out: Output,
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
) -> None:
    """Run the last built image, or another one, here; print its URL and a curl command."""
    from higgs_image.service import commands

    options = commands.ServiceOptions(
        image=image, name=name, port=port, address=address, device=device, gpus=gpus,
        cache=cache, variables=tuple(env), arguments=tuple(flag), wait=wait,
    )  # fmt: skip
    found = commands.start(current_workspace(), options)
    out.result(found, found.text())


@task(values=_VALUES, help={"name": _NAME_HELP})
def stop(_: Context, out: Output, name: str = _NAME) -> None:
    """End the container after its running requests, and remove it."""
    from higgs_image.service import commands

    found = commands.stop(name)
    out.result(found, found.text())


@task(values=_VALUES, help={"name": _NAME_HELP})
def status(_: Context, out: Output, name: str = _NAME) -> None:
    """Print whether the container is loading, ready or ended, and its URL."""
    from higgs_image.service import commands

    found = commands.status(name)
    out.result(found, found.text())


@task(
    values=_VALUES,
    help={
        "name": _NAME_HELP,
        "follow": "go on until it ends",
        "tail": "print only that many lines of its end (default: all)",
    },
)
def logs(_: Context, name: str = _NAME, follow: bool = False, tail: int = 0) -> None:
    """Print the log of the container."""
    from higgs_image.service import commands

    for line in commands.logs(name, follow=follow, last=tail or None):
        print(line, flush=True)


@task(
    help={
        "server": "URL of the speech server, such as http://localhost:8000",
        "port": "port on this machine (default: 8888)",
        "address": "address on which it is reached (default: 127.0.0.1, this machine alone)",
    },
)
def generate(_: Context, server: str = "", port: int = 8888, address: str = "127.0.0.1") -> None:
    """Run POST /generate and its page here, in front of a speech server that runs anywhere."""
    from higgs_image.service import generate as generate_service

    generate_service.run(current_workspace(), server, address=address, port=port)
