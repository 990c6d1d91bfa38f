"""Start the image on this machine, find it again, and stop it: one container under one name.

It gets a GPU if the engine has one, and otherwise the CPU device with random weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from higgs_image import retry
from higgs_image.errors import EngineError, ServiceError, UsageError
from higgs_image.oci.container_spec import PORT
from higgs_image.oci.daemon import docker_client
from higgs_image.service.state import DEVICE, GENERATE_PORT, IMAGE, ServiceState, inspect, tail
from higgs_image.smoke.device import CACHE, choose_device, spec_for
from higgs_image.smoke.image import identify, last_built
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

log = logging.getLogger(__name__)

NAME = "higgs-audio"
KEY = IMAGE + "-key"
"""Label that tells services apart that were started with different options."""
STOP_SECONDS = 40
"""HIGGS_DRAIN_SECONDS for running requests, and time for the server to end."""
START_SECONDS = {"gpu": 3600.0, "cpu": 600.0}
"""Time to become ready; on a GPU the weights may have to be downloaded."""
PROGRESS = 5.0
"""Seconds between two lines of progress."""
TAIL = 30


@dataclass(frozen=True)
class ServiceOptions:
    """Options of `./inv start`.

    Attributes:
        image: name or digest; empty: the image that was built last.
        name: of the container.
        port: on this machine.
        address: of this machine on which it is reached; 127.0.0.1: from this machine alone.
        device: `gpu`, `cpu`, or `auto`: a GPU if the engine has one.
        gpus: ids of GPUs, or `all`.
        cache: volume or folder for the real weights.
        variables: for the container, as NAME=VALUE.
        arguments: flags of the server.
        wait: until it is ready.
    """

    image: str = ""
    name: str = NAME
    port: int = 8000
    address: str = "127.0.0.1"
    device: str = "auto"
    gpus: str = "all"
    cache: str = CACHE
    variables: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    wait: bool = True

    @property
    def key(self) -> str:
        """A hash of the options that need another container; it reveals no secret."""
        parts = [self.port, self.address, self.device, self.gpus, self.cache,
                 sorted(self.variables), self.arguments]  # fmt: skip
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def start(workspace: Workspace, options: ServiceOptions) -> ServiceState:
    """Start a container, or find the running one, and wait until it is ready if that is asked for.

    Args:
        workspace: keeps the random weights of the CPU device.
        options: of the container.

    Raises:
        UsageError: another image, or one with other options, runs under that name.
        EngineError: no engine, no such image, or the engine refused to start it.
        ServiceError: the container ended before it was ready, or was not ready in time.
    """
    with docker_client() as client, workspace.exclusive("service"):
        reference = options.image or last_built(workspace)
        identify(client, reference)  # pulls an image that the engine lacks
        container = _find(client, options.name)
        if container is not None and container.status == "running":
            _require_same(container, reference, options)
            log.info("start: %s is running already", options.name)
        else:
            if container is not None:
                container.remove(force=True)
            container = _create(client, workspace, reference, options)
        if options.wait:
            _wait(container)
        return inspect(container)


def _require_same(container: Container, reference: str, options: ServiceOptions) -> None:
    hint = f"./inv stop --name {options.name} first, or start this one with another --name"
    if container.labels.get(IMAGE) != reference:
        raise UsageError(f"{options.name} runs {container.labels.get(IMAGE)}", hint)
    if container.labels.get(KEY) != options.key:
        raise UsageError(f"{options.name} runs already, and was started with other options", hint)


def _create(
    client: DockerClient, workspace: Workspace, reference: str, options: ServiceOptions
) -> Container:
    from docker.errors import APIError

    device = choose_device(client, options.device)
    log.info("start: %s on %s", reference, device)
    spec = spec_for(client, workspace, reference, device, gpus=options.gpus, cache=options.cache)
    variables = dict(entry.split("=", 1) for entry in options.variables)
    generate = variables.get(GENERATE_PORT, "")
    spec = dataclasses.replace(
        spec,
        environment={**spec.environment, **variables, "PORT": str(PORT)},
        arguments=options.arguments,
        shm_size="1g" if device == "gpu" else "",
        labels={IMAGE: reference, DEVICE: device, KEY: options.key},
        address=options.address,
        port=options.port,
        # What is no port is refused in the container, with a hint.
        more_ports=(int(generate),) if re.fullmatch(r"[1-9]\d{0,4}", generate) else (),
    )
    try:
        return client.containers.run(
            reference, list(spec.arguments) or None, name=options.name, detach=True,
            **spec.settings(),
        )  # fmt: skip
    except APIError as error:
        if (left := _find(client, options.name)) is not None:
            left.remove(force=True)
        raise EngineError(
            f"the engine refused to start {reference}: {error.explanation}",
            "another port: --port; without a GPU: --device cpu; see ./inv doctor",
        ) from None


def _wait(container: Container) -> None:
    """Wait until /ping is 200, and log progress."""
    begun = reported = time.monotonic()
    timeout = START_SECONDS[container.labels.get(DEVICE, "cpu")]

    def ready() -> bool:
        nonlocal reported
        now = inspect(container)
        if now.state == "ended":
            raise ServiceError(
                f"{now.name} ended with {now.exit_code} before it was ready\n"
                f"{tail(container, TAIL)}",
                f"its last lines are above; the whole log: ./inv logs --name {now.name}",
            )
        if time.monotonic() - reported > PROGRESS:
            reported = time.monotonic()
            log.info("start: %3.0f s, %s: %s", reported - begun, now.state, now.last[:120])
        return now.state == "ready"

    if not retry.wait_until(ready, timeout):
        name = container.name
        raise ServiceError(
            f"{name} was not ready within {timeout:.0f} s\n{tail(container, TAIL)}",
            f"it keeps running: ./inv status --name {name} shows it, ./inv stop ends it",
        )


def status(name: str = NAME) -> ServiceState:
    """Return the state of the container; `absent` if there is none."""
    with docker_client() as client:
        container = _find(client, name)
        return inspect(container) if container is not None else ServiceState(name, "absent")


def stop(name: str = NAME) -> ServiceState:
    """End the container, after its running requests, and remove it.

    Returns:
        Its last state; `absent` if there was none.
    """
    with docker_client() as client:
        container = _find(client, name)
        if container is None:
            return ServiceState(name, "absent")
        container.stop(timeout=STOP_SECONDS)
        ended = inspect(container)
        container.remove(force=True, v=True)
        return ended


def logs(name: str = NAME, *, follow: bool = False, last: int | None = None) -> Iterator[str]:
    """Yield the lines of the container's log.

    Args:
        name: of the container.
        follow: go on until it ends.
        last: only so many lines of its end, and the following ones; None: all.

    Raises:
        UsageError: there is no such container.
    """
    with docker_client() as client:
        container = _find(client, name)
        if container is None:
            raise UsageError(f"there is no container {name}", "start one: ./inv start")
        blocks: Any = container.logs(
            stream=True, follow=follow, tail="all" if last is None else last
        )
        rest = b""
        for block in blocks:
            *lines, rest = (rest + block).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")


def _find(client: DockerClient, name: str) -> Container | None:
    """Return the service of that name.

    Raises:
        UsageError: the container of that name was not started by ./inv start.
    """
    from docker.errors import NotFound

    try:
        found = client.containers.get(name)
    except NotFound:
        return None
    if IMAGE not in found.labels:
        raise UsageError(
            f"the container {name} was not started by ./inv start", "choose another --name"
        )
    return found
