"""The description of a container of the image, as the Docker SDK takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PORT = 8000
"""Port of the server in the container."""


@dataclass(frozen=True)
class ContainerSpec:
    """A container of the image before it exists.

    Attributes:
        image: name or digest.
        environment: variables.
        mounts: folder of this machine, or name of a volume, to path in the container.
        writable: the mounts that are not read-only.
        arguments: for the server; empty: the image's own.
        gpus: ids of GPUs, `all`, or empty for none.
        shm_size: of /dev/shm, such as 2g; empty: the host's IPC namespace with a GPU, else the
            engine's default.
        labels: of the container.
        address: address of this machine on which the server is reached.
        port: port of this machine; 0: a free one.
        more_ports: further ports of the container, each the same on this machine.
    """

    image: str
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    writable: frozenset[str] = frozenset()
    arguments: tuple[str, ...] = ()
    gpus: str = ""
    shm_size: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"
    port: int = 0
    more_ports: tuple[int, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments of `containers.create` besides image and command."""
        from docker.types import DeviceRequest

        settings: dict[str, Any] = {
            "environment": dict(self.environment),
            "labels": dict(self.labels),
            "ports": {
                f"{PORT}/tcp": (self.address, self.port or None),
                **{f"{port}/tcp": (self.address, port) for port in self.more_ports},
            },
            "volumes": {
                source: {"bind": target, "mode": "rw" if source in self.writable else "ro"}
                for source, target in self.mounts.items()
            },
        }
        if self.gpus:
            wanted = {"count": -1} if self.gpus == "all" else {"device_ids": self.gpus.split(",")}
            settings["device_requests"] = [DeviceRequest(**wanted, capabilities=[["gpu"]])]
        if self.shm_size:
            settings["shm_size"] = self.shm_size
        elif self.gpus:
            settings["ipc_mode"] = "host"
        return settings
