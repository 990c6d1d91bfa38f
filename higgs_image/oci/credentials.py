"""Stage `push`: the layout's image to a registry, by skopeo, with its digest kept and read back.

Credentials come from docker's configuration or credential helpers, which skopeo reads itself, or
from REGISTRY_USER and REGISTRY_PASSWORD (GITHUB_ACTOR and GITHUB_TOKEN for ghcr.io). Those are
handed over in an anonymous memory file: never in an argument, a log or a file on disk.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from higgs_image.errors import (
    UsageError,
)
from higgs_image.oci.reference import is_loopback

log = logging.getLogger(__name__)


class Credentials:
    """How skopeo learns who we are. Its flags and environment name a source, never a secret."""

    def __init__(self, registry: str, fd: int | None) -> None:
        self._fd = fd
        self._loopback = is_loopback(registry)
        self.env: dict[str, str] = {}

    @property
    def fds(self) -> Sequence[int]:
        """File descriptors that skopeo must inherit."""
        return [] if self._fd is None else [self._fd]

    def flags(self, side: str) -> list[str]:
        """Return the flags for one side of a copy (`src`, `dest`), or for a single reference."""
        prefix = f"--{side}-" if side else "--"
        flags = [f"{prefix}tls-verify=false"] if self._loopback else []
        if self._fd is not None:
            flags += [f"{prefix}authfile", f"/proc/self/fd/{self._fd}"]
        return flags


def login(host: str) -> tuple[str, str] | None:
    """Return user and password for a registry from the environment; None: docker's are used.

    Raises:
        UsageError: there is a password without a user.
    """
    user, secret = os.environ.get("REGISTRY_USER"), os.environ.get("REGISTRY_PASSWORD")
    if not secret and host == "ghcr.io":
        user, secret = os.environ.get("GITHUB_ACTOR", "token"), os.environ.get("GITHUB_TOKEN")
    if not secret:
        return None
    if not user:
        raise UsageError("REGISTRY_PASSWORD is set, REGISTRY_USER is not", "set both, or neither")
    return user, secret


@contextmanager
def credentials(target: str) -> Iterator[Credentials]:
    """Find the credentials for a repository; without any in the environment, docker's are used."""
    host = target.split("/")[0]
    found = login(host)
    if found is None:
        yield Credentials(host, None)
        return
    user, secret = found
    token = base64.b64encode(f"{user}:{secret}".encode()).decode()
    fd = os.memfd_create("registry-auth", 0)
    try:
        os.write(fd, json.dumps({"auths": {host: {"auth": token}}}).encode())
        os.set_inheritable(fd, True)
        yield Credentials(host, fd)
    finally:
        os.close(fd)
