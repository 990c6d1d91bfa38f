"""A registry on loopback, for the demonstration and the tests.

It is Debian's docker-registry as a child process, or the registry:2 image where that is missing.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
from pathlib import Path

from higgs_image import http, process
from higgs_image.errors import EngineError, NetworkError, RegistryUnavailableError, ToolMissingError
from higgs_image.files import write_atomically
from higgs_image.ports import HOST, free_port, is_free
from higgs_image.retry import wait_until

log = logging.getLogger(__name__)

IMAGE = "registry:2"
"""Used where docker-registry is not installed; pulled from Docker Hub."""

TIMEOUT = 60.0
"""Seconds until it must answer."""

_LEVEL = "warn"


class LocalRegistry:
    """A registry on loopback, without TLS, that ends with this process.

    Args:
        folder: for its configuration, log and storage; it is kept.
        port: 0 for a free one, which is used again by the next start.
        htpasswd: file with logins (bcrypt); None for a registry without a login.
    """

    def __init__(self, folder: Path, port: int = 0, htpasswd: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.config, self.log_file = self.folder / "config.yml", self.folder / "registry.log"
        self.port = port
        self._htpasswd = htpasswd.resolve() if htpasswd else None
        self._child: subprocess.Popen[bytes] | None = None
        self.command: list[str] = []
        """The command that started it."""

    @property
    def address(self) -> str:
        """Host and port, as in an image's name."""
        return f"{HOST}:{self.port}"

    def __enter__(self) -> LocalRegistry:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RegistryUnavailableError: its port is in use, or it does not start.
            ToolMissingError: neither docker-registry nor an engine is installed.
        """
        if self.port and not is_free(self.port):
            raise RegistryUnavailableError(
                f"port {self.port} on {HOST} is in use by another program",
                f"stop it (ss -ltnp 'sport = :{self.port}' names it), or use another port",
            )
        self.port = self.port or free_port()
        self.command = self._command()
        child = self._child = process.start(self.command, self.log_file)
        answered = wait_until(
            lambda: child.poll() is not None or self._answers(), TIMEOUT, interval=0.05
        )
        if child.poll() is not None:
            raise self._failed(f"exited with status {child.returncode}")
        if not answered:
            self.stop()
            raise self._failed(f"did not answer within {TIMEOUT:.0f} s")
        log.info("registry: %s (%s)", self.address, self.folder)

    def stop(self) -> None:
        """Stop it; its storage is kept."""
        if self._child is not None:
            process.end(self._child)
            self._child = None

    def _command(self) -> list[str]:
        """Write the configuration and return the command that starts it."""
        try:
            process.find("docker-registry")
        except ToolMissingError as missing:
            return self._container(missing)
        self._configure(self.address, self.folder / "storage", self._htpasswd)
        return ["docker-registry", "serve", str(self.config)]

    def _container(self, missing: ToolMissingError) -> list[str]:
        try:
            if process.run(["docker", "image", "inspect", IMAGE]).code != 0:
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
        # JSON is valid YAML.
        write_atomically(self.config, json.dumps(settings, indent=2).encode() + b"\n")

    def _answers(self) -> bool:
        try:
            status = http.request("GET", f"http://{self.address}/v2/", timeout=2).status
        except NetworkError:
            return False
        return status in (200, 401)

    def _failed(self, what: str) -> RegistryUnavailableError:
        tail = self.log_file.read_text(errors="replace").splitlines()[-8:]
        self._child = None
        return RegistryUnavailableError(
            f"the local registry on {self.address} {what}\n"
            + "\n".join(f"    {line}" for line in tail),
            f"the whole log: {self.log_file}",
        )
