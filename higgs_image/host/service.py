"""The image running on this machine: started as a user would, found again, looked at, ended.

One container under one name. It gets a GPU if the engine can give one, and otherwise the CPU
stand-in with random weights (higgs_image/smoke/cpu.py), so that everything but the sound is real.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgs_image import lockfile
from higgs_image.errors import EngineError, ServiceError, UsageError
from higgs_image.labels import LABEL
from higgs_image.oci import daemon
from higgs_image.smoke import cpu_device, session
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

log = logging.getLogger(__name__)

NAME = "higgs-audio"
MARK = LABEL + "service"
INSIDE = 8000
"""Port of the server in its container."""
STOP_SECONDS = 40
"""HIGGS_DRAIN_SECONDS for running requests, and time for the server to end."""
START_SECONDS = {"gpu": 3600.0, "cpu": 600.0}
"""Time to become ready; on a GPU the weights may have to be downloaded."""
TAIL = 30


@dataclass(frozen=True)
class Options:
    """What `invoke start` was asked for.

    Attributes:
        image: name or digest; empty: the image that was built last.
        name: of the container.
        port: on this machine.
        address: on which it is reached; 127.0.0.1: from this machine alone.
        device: `gpu`, `cpu`, or `auto`: a GPU if the engine has one.
        gpus: ids of GPUs, or `all`.
        cache: volume or folder for the real weights.
        variables: for the container, as NAME=VALUE.
        arguments: flags of the server.
        wait: until it is ready.
        random_weights: give a container on a CPU the stand-in device and its weights. The small
            stand-in of the fork needs neither.
    """

    image: str = ""
    name: str = NAME
    port: int = 8000
    address: str = "127.0.0.1"
    device: str = "auto"
    gpus: str = "all"
    cache: str = session.CACHE
    variables: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    wait: bool = True
    random_weights: bool = True

    @property
    def key(self) -> str:
        """Tells containers apart that were asked for differently; holds no secret."""
        parts = [self.port, self.address, self.device, self.gpus, self.cache,
                 sorted(self.variables), self.arguments]  # fmt: skip
        return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Service:
    """A container as it stands.

    Attributes:
        name: of the container.
        state: `absent`, `loading`, `ready`, `ending`, or `ended`.
        image: that it was made of.
        device: gpu or cpu.
        url: under which it is reached.
        curl: a command that makes it speak.
        exit_code: of a container that has ended.
        last: the last line of its log.
        seconds: since it was started.
    """

    name: str
    state: str
    image: str = ""
    device: str = ""
    url: str = ""
    curl: str = ""
    exit_code: int | None = None
    last: str = ""
    seconds: float = field(default=0.0, compare=False)

    def text(self) -> str:
        """Return it as a person reads it."""
        if self.state == "absent":
            return f"{self.name}  is not running: invoke start"
        lines = [f"{self.name}  {self.state}, {self.image} on {self.device}"]
        if self.state == "ended":
            return "\n".join([*lines, f"exit    {self.exit_code}", f"log     {self.last}"])
        lines.append(f"url     {self.url}")
        if self.state == "loading":
            return "\n".join([*lines, f"log     {self.last}"])
        return "\n".join([*lines, f"speak   {self.curl}"])


def start(workspace: Workspace, options: Options) -> Service:
    """Start a container, or find the one that runs; wait until it is ready if that is wanted.

    Args:
        workspace: the stand-in's weights are kept in its build folder.
        options: what was asked for.

    Raises:
        UsageError: another image runs under that name, or an option cannot be used.
        EngineError: no engine, no such image, or the engine refused to start it.
        ServiceError: the container ended before it was ready, or did not become so.
    """
    variables = _variables(options.variables)
    if options.device not in ("auto", "gpu", "cpu"):
        raise UsageError(f"device {options.device!r} is unknown", "use auto, gpu or cpu")
    with daemon.engine() as (client, _), workspace.exclusive("service"):
        reference = options.image or session.last_built(workspace)
        session.describe(client, reference)  # pulls it where the engine lacks it
        container = _find(client, options.name)
        if container is not None and container.status == "running":
            if container.labels.get(MARK) != reference:
                raise UsageError(
                    f"{options.name} runs {container.labels.get(MARK) or 'something else'}",
                    f"invoke stop --name {options.name}, or start this one with --name",
                )
            if container.labels.get(MARK + "-key") != options.key:
                raise UsageError(
                    f"{options.name} runs already, and was started with other options",
                    f"invoke stop --name {options.name} first, or give this one another --name",
                )
            log.info("start: %s is running already", options.name)
        else:
            if container is not None:
                container.remove(force=True)
            device = options.device if options.device != "auto" else session.find_device(client)
            log.info("start: %s on %s", reference, device)
            settings = _settings(client, workspace, options, reference, device)
            container = _run(client, options, reference, device, variables, settings)
        if options.wait:
            _wait(container)
        return _describe(container)


def _variables(given: tuple[str, ...]) -> dict[str, str]:
    for entry in given:
        if not entry.partition("=")[0] or "=" not in entry:
            raise UsageError(f"--env {entry} has no value", "write it as NAME=VALUE")
    return dict(entry.split("=", 1) for entry in given)


def _settings(
    client: DockerClient,
    workspace: Workspace,
    options: Options,
    reference: str,
    device: str,
) -> dict[str, Any]:
    """Return what the container gets for its device: GPU and weights, or what stands for them."""
    from docker.types import DeviceRequest

    if device == "gpu":
        wanted = {"count": -1} if options.gpus == "all" else {"device_ids": options.gpus.split(",")}
        cache = str(Path(options.cache).resolve()) if "/" in options.cache else options.cache
        token = os.environ.get("HF_TOKEN")
        return {
            "device_requests": [DeviceRequest(**wanted, capabilities=[["gpu"]])],
            "shm_size": "1g",
            "volumes": {cache: {"bind": session.WORKSPACE, "mode": "rw"}},
            "environment": {"HF_TOKEN": token} if token else {},
        }
    if not options.random_weights:
        return {"environment": {"HIGGS_DEVICE": "cpu"}}
    weights = cpu_device.weights(client, workspace, reference, lockfile.load(workspace.lock_file))
    return {
        "volumes": {
            str(cpu_device.package(workspace)): {"bind": cpu_device.DEVICE, "mode": "ro"},
            str(weights): {"bind": cpu_device.WEIGHTS, "mode": "ro"},
        },
        "environment": dict(cpu_device.ENVIRONMENT),
    }


def _run(
    client: DockerClient,
    options: Options,
    reference: str,
    device: str,
    variables: Mapping[str, str],
    settings: dict[str, Any],
) -> Container:
    from docker.errors import APIError

    environment = settings.pop("environment") | dict(variables) | {"PORT": str(INSIDE)}
    try:
        return client.containers.run(
            reference,
            list(options.arguments) or None,
            name=options.name,
            detach=True,
            labels={MARK: reference, MARK + "-device": device, MARK + "-key": options.key},
            ports={f"{INSIDE}/tcp": (options.address, options.port)},
            environment=environment,
            **settings,
        )
    except APIError as error:
        if (left := _find(client, options.name)) is not None:
            left.remove(force=True)
        raise EngineError(
            f"the engine refused to start {reference}: {error.explanation}",
            "another port: --port; without a GPU: --device cpu; see invoke doctor",
        ) from None


def _wait(container: Container) -> None:
    """Wait until /ping is 200, and say now and then what is going on."""
    begun = said = time.monotonic()
    patience = START_SECONDS[container.labels.get(MARK + "-device", "cpu")]
    while True:
        now = _describe(container)
        if now.state == "ready":
            return
        if now.state == "ended":
            raise ServiceError(
                f"{now.name} ended with {now.exit_code} before it was ready\n{_tail(container)}",
                f"its last lines are above; the whole log: invoke logs --name {now.name}",
            )
        if time.monotonic() - begun > patience:
            raise ServiceError(
                f"{now.name} was not ready within {patience:.0f} s\n{_tail(container)}",
                f"it goes on: invoke status --name {now.name}; invoke stop ends it",
            )
        if time.monotonic() - said > 5:
            said = time.monotonic()
            log.info("start: %3.0f s, %s: %s", said - begun, now.state, now.last[:120])
        time.sleep(0.25)


def status(name: str = NAME) -> Service:
    """Return how the container stands; `absent` if there is none."""
    with daemon.engine() as (client, _):
        container = _find(client, name)
        return _describe(container) if container is not None else Service(name, "absent")


def stop(name: str = NAME) -> Service:
    """End the container and remove it; running requests are finished.

    Returns:
        How it ended; `absent` if there was none.
    """
    with daemon.engine() as (client, _):
        container = _find(client, name)
        if container is None:
            return Service(name, "absent")
        container.stop(timeout=STOP_SECONDS)
        ended = _describe(container)
        container.remove(force=True, v=True)
        return ended


def logs(name: str = NAME, *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
    """Yield the lines of the container's log.

    Args:
        name: of the container.
        follow: go on until it ends.
        tail: only so many lines of its end, and what follows.

    Raises:
        UsageError: there is none.
    """
    with daemon.engine() as (client, _):
        container = _find(client, name)
        if container is None:
            raise UsageError(f"there is no container {name}", "start one: invoke start")
        stream: Any = container.logs(
            stream=True, follow=follow, tail="all" if tail is None else tail
        )
        rest = b""
        for piece in stream:
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")


def _find(client: DockerClient, name: str) -> Container | None:
    """Return our container of that name.

    Raises:
        UsageError: there is one that is not ours.
    """
    from docker.errors import NotFound

    try:
        found = client.containers.get(name)
    except NotFound:
        return None
    if MARK not in found.labels:
        raise UsageError(
            f"the container {name} was not started by invoke start", "choose another --name"
        )
    return found


def _describe(container: Container) -> Service:
    container.reload()
    state = container.attrs["State"]
    ports = container.attrs["HostConfig"].get("PortBindings") or {}
    bound = (container.attrs["NetworkSettings"]["Ports"] or ports).get(f"{INSIDE}/tcp")
    host, port = ("127.0.0.1", 0) if not bound else (bound[0]["HostIp"], int(bound[0]["HostPort"]))
    url = f"http://{_reachable(host)}:{port}"
    environment = dict(x.split("=", 1) for x in container.attrs["Config"]["Env"] if "=" in x)
    running = state["Status"] in ("created", "running", "restarting", "paused")
    phase = _PHASES.get(_ping(url), "loading") if running else "ended"
    return Service(
        name=str(container.name),
        state=phase,
        image=container.labels.get(MARK, ""),
        device=container.labels.get(MARK + "-device", ""),
        url=url,
        curl=_curl(url, environment) if phase == "ready" else "",
        exit_code=None if running else int(state["ExitCode"]),
        last="" if phase == "ready" else _tail(container, 1),
    )


def _reachable(address: str) -> str:
    """Return how an address is written in a URL; one for all interfaces is reached by loopback."""
    address = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    return f"[{address}]" if ":" in address else address


_PHASES = {200: "ready", 204: "loading", 503: "ending"}


def _ping(url: str) -> int:
    host, _, port = url.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=10)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _curl(url: str, environment: Mapping[str, str]) -> str:
    """Return a command that works as it is: with the first voice there is, and the key if any."""
    key = environment.get("HIGGS_API_KEY")
    voice, model = _first(url, "/v1/audio/voices", key), _first(url, "/v1/models", key)
    login = " -H 'Authorization: Bearer '\"$HIGGS_API_KEY\"" if key else ""
    # A proxy for the outside would be asked for an address of this machine otherwise.
    proxies = ("http_proxy", "all_proxy", "ALL_PROXY")
    direct = " --noproxy '*'" if any(os.environ.get(name) for name in proxies) else ""
    return (
        f"curl -sf{direct} {url}/v1/audio/speech{login} "
        "-H 'Content-Type: application/json' -o hello.wav "
        f'-d \'{{"model": "{model}", "voice": "{voice}", "input": "Hello there.", '
        '"response_format": "wav"}\''
    )


def _first(url: str, path: str, key: str | None) -> str:
    """Return the first name in one of the server's lists."""
    import json
    import urllib.request

    request = urllib.request.Request(  # noqa: S310 (http, our own container)
        url + path, headers={"Authorization": f"Bearer {key}"} if key else {}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            value = json.load(answer)
        entries = value.get("voices") or value.get("data")
        return str(entries[0]["id"] if isinstance(entries[0], dict) else entries[0])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return "NAME"


def _tail(container: Container, lines: int = TAIL) -> str:
    return container.logs(tail=lines).decode(errors="replace").strip()
