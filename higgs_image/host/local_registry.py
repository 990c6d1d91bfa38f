"""A registry of our own on loopback: for the demonstration, the tests, and a base image.

Debian's docker-registry as a child process; where that is not installed, the registry:2 image.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from higgs_image import process
from higgs_image.errors import EngineError, RegistryUnavailableError, ToolMissingError
from higgs_image.files import write_atomically

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
IMAGE = "registry:2"
"""Used where the program is missing; it has to be pulled from Docker Hub."""

PATIENCE = 60.0
"""Seconds until it must answer (with the image, after it was pulled)."""

_LEVEL = "warn"


def is_free(port: int) -> bool:
    """Tell whether nothing listens on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a loopback port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class LocalRegistry:
    """A registry on loopback, without TLS, that ends with this process.

    Args:
        folder: receives its configuration, log and storage; what was pushed stays there.
        port: 0 takes a free one, and keeps it when started again.
        htpasswd: file with logins (bcrypt); None: no login is asked for.
    """

    def __init__(self, folder: Path, port: int = 0, htpasswd: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.port = port
        self._htpasswd = htpasswd.resolve() if htpasswd else None
        self._child: subprocess.Popen[bytes] | None = None
        self.command: list[str] = []
        """How it was started, and can be by hand."""

    @property
    def address(self) -> str:
        """Host and port, as they stand in an image's name."""
        return f"{HOST}:{self.port}"

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.folder / "config.yml"

    @property
    def log_file(self) -> Path:
        """What it writes while it runs."""
        return self.folder / "registry.log"

    def __enter__(self) -> LocalRegistry:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RegistryUnavailableError: its port is taken, or it does not come up.
            ToolMissingError: neither docker-registry nor an engine for its image is there.
        """
        if self.port and not is_free(self.port):
            raise RegistryUnavailableError(
                f"port {self.port} on {HOST} is taken by another program",
                f"end it (ss -ltnp 'sport = :{self.port}' names it), or take another port",
            )
        self.port = self.port or free_port()
        self.command = self._command()
        self._child = process.start(self.command, self.log_file)
        deadline = time.monotonic() + PATIENCE
        while True:
            if self._child.poll() is not None:
                raise self._failed(f"ended at once with status {self._child.returncode}")
            if self._answers() and self._child.poll() is None:
                break
            if time.monotonic() > deadline:
                self.stop()
                raise self._failed(f"did not answer within {PATIENCE:.0f} s")
            time.sleep(0.05)
        log.info("registry: %s (%s)", self.address, self.folder)

    def stop(self) -> None:
        """End it; what was pushed stays."""
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None

    def _command(self) -> list[str]:
        """Write the configuration and return how to start it."""
        try:
            process.find("docker-registry")
        except ToolMissingError as missing:
            return self._container(missing)
        self._configure(self.address, self.folder / "storage", self._htpasswd)
        return ["docker-registry", "serve", str(self.config)]

    def _container(self, missing: ToolMissingError) -> list[str]:
        try:
            there = process.run(["docker", "image", "inspect", IMAGE]).code == 0
            if not there:
                log.info("registry: docker-registry is not installed; pulling %s", IMAGE)
                pulled = process.run(["docker", "pull", "--quiet", IMAGE])
                if pulled.code != 0:
                    raise EngineError(
                        f"{missing.message}, and {IMAGE} cannot be pulled: {pulled.err.strip()}",
                        missing.hint,
                    )
        except ToolMissingError:
            raise missing from None
        htpasswd = Path("/etc/docker/registry/htpasswd") if self._htpasswd else None
        self._configure("0.0.0.0:5000", Path("/var/lib/registry"), htpasswd)
        (self.folder / "storage").mkdir(parents=True, exist_ok=True)
        mounts = [(self.config, "/etc/docker/registry/config.yml:ro"),
                  (self.folder / "storage", "/var/lib/registry")]  # fmt: skip
        if self._htpasswd:
            mounts.append((self._htpasswd, "/etc/docker/registry/htpasswd:ro"))
        return [
            "docker", "run", "--rm", "--publish", f"{self.address}:5000",
            "--user", f"{os.getuid()}:{os.getgid()}",
            *(x for path, goal in mounts for x in ("--volume", f"{path}:{goal}")),
            IMAGE, "serve", "/etc/docker/registry/config.yml",
        ]  # fmt: skip

    def _configure(self, address: str, storage: Path, htpasswd: Path | None) -> None:
        settings: dict[str, object] = {
            "version": 0.1,
            "log": {"level": _LEVEL, "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
            "http": {"addr": address},
        }
        if htpasswd:
            settings["auth"] = {"htpasswd": {"realm": "local", "path": str(htpasswd)}}
        # JSON is YAML too.
        write_atomically(self.config, json.dumps(settings, indent=2).encode() + b"\n")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status in (200, 401)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _failed(self, what: str) -> RegistryUnavailableError:
        tail = self.log_file.read_text(errors="replace").splitlines()[-8:]
        self._child = None
        return RegistryUnavailableError(
            f"the local registry on {self.address} {what}\n"
            + "\n".join(f"    {line}" for line in tail),
            f"the whole log is {self.log_file}",
        )
