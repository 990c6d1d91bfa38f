"""Pods of the fake RunPod: what happens to them as time passes, and what their logs say."""

from __future__ import annotations

import datetime
import secrets
import time
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from tests.support.runpod import speech_stub


@dataclass
class PodLife:
    """How pods go on after they were created.

    Attributes:
        provisioning: seconds until the host pulls the image.
        pulling: seconds of the pull; infinite: it never ends.
        loading: seconds from the start of the container until the server is ready.
        error: line of the entrypoint with which the container ends instead.
        exit_code: with which it ends then.
        serves: the server answers on its port once it is ready.
        thinks: seconds before the server answers a request for speech.
        driver: of the host.
    """

    provisioning: float = 0.05
    pulling: float = 0.05
    loading: float = 0.1
    error: str = ""
    exit_code: int = 0
    serves: bool = True
    thinks: float = 0.0
    driver: str = "550.90.07"


@dataclass
class FakePod:
    """A pod.

    Attributes:
        body: as it was asked for.
        gpu: its GPU type, from the catalogue.
        life: how it goes on.
    """

    body: dict[str, Any]
    gpu: dict[str, Any]
    life: PodLife
    upstream: int = 0
    id: str = field(default_factory=lambda: secrets.token_hex(7))
    begun: float = field(default_factory=time.monotonic)
    created: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    server: ThreadingHTTPServer | None = None

    @property
    def age(self) -> float:
        return time.monotonic() - self.begun

    @property
    def started(self) -> float:
        """Seconds from the creation to the start of the container."""
        return self.life.provisioning + self.life.pulling

    @property
    def status(self) -> str:
        if self.age < self.life.provisioning:
            return "PROVISIONING"
        if self.age < self.started:
            return "STARTING"
        return "EXITED" if self.life.error and self.age > self.started + 0.1 else "RUNNING"

    @property
    def loaded(self) -> bool:
        return self.status == "RUNNING" and self.age > self.started + self.life.loading

    def port(self) -> int:
        """Return the port of the server in the container; 0 where none answers."""
        if not self.life.serves or not self.loaded or self.life.error:
            return 0
        if self.upstream:
            return self.upstream
        if self.server is None:
            key = self.body.get("env", {}).get("HIGGS_API_KEY", "")
            self.server = speech_stub.start(key, self.life.thinks)
        return int(self.server.server_address[1])

    def log(self) -> list[tuple[float, str, str]]:
        """Return age, source and text of every line that the pod logs until it is ready."""
        life, begun = self.life, self.started
        lines = [
            (0.0, "system", f"create container {self.body.get('image')}"),
            (life.provisioning, "system", f"{self.body.get('image')} Pulling from registry"),
            (begun, "system", "start container"),
            (begun, "container", "higgs: image 20261126-892184b-f87827a"),
        ]
        if life.error:
            ended = f"container exited with code {life.exit_code}"
            return [
                *lines,
                (begun + 0.05, "container", life.error),
                (begun + 0.1, "system", ended),
            ]
        memory = self.gpu["memory"] - 0.6
        return [
            *lines,
            (
                begun,
                "container",
                f"higgs: {self.gpu['id']}, {memory:.1f} GiB, driver {life.driver}",
            ),
            (begun + life.loading / 2, "container", "INFO 11-27 03:00:00 [loader.py] loading"),
            (begun + life.loading, "container", f"higgs: ready: https://{self.id}-8000.invalid"),
        ]

    def answer(self) -> dict[str, Any]:
        """Return it as the API does."""
        body, status = self.body, self.status
        running = status == "RUNNING"
        cloud = body.get("cloud", "SECURE")
        return {
            "id": self.id, "name": body["name"], "status": status,
            "actions": ["stop", "terminate"], "image": body.get("image", ""),
            "args": body.get("args", ""), "disk": body.get("disk", 20),
            "mounts": body.get("mounts", {}), "ports": body.get("ports", []),
            "env": body.get("env", {}), "registry": body.get("registry"),
            "gpu": {"id": self.gpu["id"], "count": body["gpu"].get("count", 1)}, "cloud": cloud,
            "dataCenterId": "EU-RO-1", "cudaVersion": "12.8" if running else None,
            "ssh": {"proxy": None, "direct": None}, "template": None,
            "cost": self.gpu["price"][cloud.lower()], "locked": False,
            "globalNetworking": {"enabled": False}, "runtime": {} if running else None,
            "createdAt": self.created.isoformat().replace("+00:00", "Z"), "startedAt": None,
        }  # fmt: skip

    def end(self) -> None:
        """Stop the server in it."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()


def gpu(
    name: str, memory: int, price: float, availability: str = "HIGH", pool: str | None = None,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return an entry of the catalogue; workers cost 1.5 times as much as pods."""
    prices = {"secure": price, "community": 0.0}
    prices |= {"serverless": round(price * 1.5, 2)} if pool else {}
    return {
        "id": name, "name": name.removeprefix("NVIDIA "), "pool": pool, "manufacturer": "NVIDIA",
        "memory": memory, "secure": True, "community": False,
        "price": prices, "maxCount": {"secure": 8, "community": 0},
        "availability": availability, "cudaVersions": [{"version": "12.8", "available": True}],
    } | more  # fmt: skip


CATALOGUE = [
    gpu("NVIDIA H100 80GB HBM3", 80, 2.69, pool="ADA_80_PRO"),
    gpu("NVIDIA GeForce RTX 4090", 24, 0.59, "LOW", pool="ADA_24"),
    gpu("NVIDIA RTX A4000", 16, 0.25, pool="AMPERE_16"),
    gpu("NVIDIA GeForce RTX 5090", 32, 0.40, pool="ADA_32_PRO"),
    gpu("NVIDIA L40S", 48, 0.79, pool="ADA_48_PRO"),
    gpu("NVIDIA RTX PRO 5000 Blackwell", 48, 0.80, pool="ADA_48_PRO"),
    gpu("NVIDIA L4", 24, 0.39, "NONE"),
    gpu("AMD Instinct MI300X OAM", 192, 0.30, manufacturer="AMD"),
]
"""Cheap ones that do not fit (too small, Blackwell, AMD, none free), and some that do."""
