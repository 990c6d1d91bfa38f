"""The state of a container that was started, as text or JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from higgs_image import http
from higgs_image.errors import NetworkError
from higgs_image.labels import LABEL
from higgs_image.oci.container_spec import PORT

if TYPE_CHECKING:
    from docker.models.containers import Container

IMAGE = LABEL + "service"
"""Label of every service with the name of its image."""
DEVICE = IMAGE + "-device"
"""Label with its device type."""

GENERATE_PORT = "HIGGS_GENERATE_PORT"
"""Variable with the port of POST /generate and its page, which is published if it is set."""

PHASES = {200: "ready", 204: "loading", 503: "ending"}
"""Meanings of the status of GET /ping."""


@dataclass(frozen=True)
class ServiceState:
    """A container and its server.

    Attributes:
        name: of the container.
        state: `absent`, `loading`, `ready`, `ending`, or `ended`.
        image: that it was made from.
        device: gpu or cpu.
        url: of the server.
        page: URL of the page of /generate, if it is on.
        curl: a command that makes it speak.
        exit_code: of a container that has ended.
        last: the last line of its log.
    """

    name: str
    state: str
    image: str = ""
    device: str = ""
    url: str = ""
    page: str = ""
    curl: str = ""
    exit_code: int | None = None
    last: str = field(default="", compare=False)

    def text(self) -> str:
        """Return a human-readable description."""
        if self.state == "absent":
            return f"{self.name}  is not running: ./inv start"
        lines = [f"{self.name}  {self.state}, {self.image} on {self.device}"]
        if self.state == "ended":
            return "\n".join([*lines, f"exit    {self.exit_code}", f"log     {self.last}"])
        lines.append(f"url     {self.url}")
        if self.page:
            lines.append(f"page    {self.page}")
        if self.state == "loading":
            return "\n".join([*lines, f"log     {self.last}"])
        return "\n".join([*lines, f"speak   {self.curl}"])


def inspect(container: Container) -> ServiceState:
    """Return the present state of a container."""
    container.reload()
    state = container.attrs["State"]
    running = state["Status"] in ("created", "running", "restarting", "paused")
    url = _url(container, PORT)
    phase = PHASES.get(_status(url), "loading") if running else "ended"
    environment = dict(x.split("=", 1) for x in container.attrs["Config"]["Env"] if "=" in x)
    generate = environment.get(GENERATE_PORT)
    return ServiceState(
        name=str(container.name),
        state=phase,
        image=container.labels.get(IMAGE, ""),
        device=container.labels.get(DEVICE, ""),
        url=url,
        page=f"{_url(container, int(generate))}/" if generate and generate.isdecimal() else "",
        curl=_curl(url, environment) if phase == "ready" else "",
        exit_code=None if running else int(state["ExitCode"]),
        last="" if phase == "ready" else tail(container, 1),
    )


def tail(container: Container, lines: int) -> str:
    """Return the last lines of a container's log."""
    return container.logs(tail=lines).decode(errors="replace").strip()


def _url(container: Container, inside: int) -> str:
    """Return the URL of a port; one that listens on all interfaces is reached by loopback."""
    ports = container.attrs["HostConfig"].get("PortBindings") or {}
    bound = (container.attrs["NetworkSettings"]["Ports"] or ports).get(f"{inside}/tcp")
    host, port = (bound[0]["HostIp"], bound[0]["HostPort"]) if bound else ("", "0")
    loopback = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (compared only)
    host = loopback.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _status(url: str) -> int:
    try:
        return http.request("GET", url + "/ping", timeout=10).status
    except NetworkError:
        return 0


def _curl(url: str, environment: Mapping[str, str]) -> str:
    """Return a command that works: with the first voice of the server, and the key if any."""
    key = environment.get("HIGGS_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    voice, model = (_first(url + path, headers) for path in ("/v1/audio/voices", "/v1/models"))
    login = " -H 'Authorization: Bearer '\"$HIGGS_API_KEY\"" if key else ""
    # Otherwise curl asks an outside proxy for an address of this machine.
    proxies = ("http_proxy", "all_proxy", "ALL_PROXY")
    direct = " --noproxy '*'" if any(os.environ.get(name) for name in proxies) else ""
    return (
        f"curl -sf{direct} {url}/v1/audio/speech{login} "
        "-H 'Content-Type: application/json' -o hello.wav "
        f'-d \'{{"model": "{model}", "voice": "{voice}", "input": "Hello there.", '
        '"response_format": "wav"}\''
    )


def _first(url: str, headers: Mapping[str, str]) -> str:
    """Return the first name in one of the server's lists."""
    try:
        value = http.request("GET", url, headers=headers, timeout=10).json()
        entry = (value.get("voices") or value.get("data"))[0]
        return str(entry["id"] if isinstance(entry, dict) else entry)
    except (NetworkError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return "NAME"
