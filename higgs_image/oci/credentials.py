"""Logins for registries, handed to skopeo, cosign and our own requests without touching a disk.

They come from REGISTRY_USER and REGISTRY_PASSWORD (GITHUB_ACTOR and GITHUB_TOKEN for ghcr.io), or
from docker's configuration: `auths`, `credHelpers` and `credsStore`. What was found is handed over
in an anonymous memory file, never in an argument, a log or a file on disk.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from higgs_image import process
from higgs_image.errors import RegistryAuthError, ToolMissingError, UsageError
from higgs_image.files import memory_file
from higgs_image.oci import certificates
from higgs_image.oci.reference import is_loopback

HELPER_SECONDS = 30.0
"""How long a credential helper may take."""


class Credentials:
    """How a tool learns who we are. Flags and environment name a source, never a secret.

    Attributes:
        login: user and password; None: anonymous, or known to the tool itself.
        env: variables for the tool.
    """

    def __init__(self, registry: str, fd: int | None, login: tuple[str, str] | None = None) -> None:
        host = registry.split("/")[0]
        self.login = login
        self.env: dict[str, str] = {}
        self._fd = fd
        self._loopback = is_loopback(registry)
        self._certificates = certificates.folder(host)

    @property
    def fds(self) -> Sequence[int]:
        """File descriptors that the tool must inherit."""
        return [] if self._fd is None else [self._fd]

    def flags(self, side: str) -> list[str]:
        """Return skopeo's flags for one side of a copy (`src`, `dest`), or for one reference."""
        prefix = f"--{side}-" if side else "--"
        flags = [f"{prefix}tls-verify=false"] if self._loopback else []
        if self._certificates and not self._loopback:
            flags += [f"{prefix}cert-dir", str(self._certificates)]
        if self._fd is not None:
            flags += [f"{prefix}authfile", f"/proc/self/fd/{self._fd}"]
        return flags


def login(host: str) -> tuple[str, str] | None:
    """Return user and password for a registry from the environment; None if it has none.

    Raises:
        UsageError: there is a password without a user.
    """
    user, secret = os.environ.get("REGISTRY_USER"), os.environ.get("REGISTRY_PASSWORD")
    if not secret and host == "ghcr.io":
        user, secret = os.environ.get("GITHUB_ACTOR", "token"), os.environ.get("GITHUB_TOKEN")
    if not secret:
        return None
    if not user:
        raise UsageError(
            "REGISTRY_PASSWORD is set, REGISTRY_USER is not set", "set both, or neither"
        )
    return user, secret


def docker_login(target: str) -> tuple[str, str] | None:
    """Return user and password from docker's configuration, as `docker login` left them.

    Args:
        target: host, or host and path: the longest name that is known counts.

    Raises:
        RegistryAuthError: a credential helper is missing or failed.
    """
    host, *path = target.split("/")
    below = ["/".join([host, *path[:n]]) for n in range(len(path), 0, -1)]
    names = [*below, host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]
    if host == "docker.io":
        names = ["https://index.docker.io/v1/", "index.docker.io", *names]
    for config in _configurations():
        helper = (config.get("credHelpers") or {}).get(host) or config.get("credsStore")
        if helper:
            for name in names[len(below) :]:
                if found := _ask_helper(str(helper), name):
                    return found
        auths = config.get("auths") or {}
        for name in names:
            if (entry := auths.get(name)) and (found := _decode(entry)):
                return found
    return None


def _configurations() -> Iterator[dict[str, Any]]:
    own = os.environ.get("REGISTRY_AUTH_FILE")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    docker = os.environ.get("DOCKER_CONFIG") or str(Path("~/.docker").expanduser())
    paths = [Path(own)] if own else []
    paths += [Path(runtime) / "containers" / "auth.json"] if runtime else []
    for path in [*paths, Path(docker) / "config.json"]:
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            yield found


def _decode(entry: dict[str, Any]) -> tuple[str, str] | None:
    try:
        user, _, secret = base64.b64decode(entry.get("auth", "")).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, secret) if user and secret else None


def _ask_helper(helper: str, server: str) -> tuple[str, str] | None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [process.find(program), "get"], input=server.encode(), capture_output=True,
            timeout=HELPER_SECONDS, check=False,
        )  # fmt: skip
    except ToolMissingError:
        raise RegistryAuthError(
            f"docker's configuration keeps logins with {program}, which is not installed",
            f"install {program}, or set REGISTRY_USER and REGISTRY_PASSWORD",
        ) from None
    except subprocess.TimeoutExpired:
        raise RegistryAuthError(
            f"{program} gave no login for {server} in {HELPER_SECONDS:.0f} s",
            "unlock its keychain, or set REGISTRY_USER and REGISTRY_PASSWORD",
        ) from None
    text = (done.stdout + done.stderr).decode(errors="replace").strip()
    if done.returncode != 0:
        if "not found" in text.lower() or "no credentials" in text.lower():
            return None
        raise RegistryAuthError(
            f"{program} failed for {server}: {(text.splitlines() or ['no output'])[-1]}",
            "fix the problem that it reports, or set REGISTRY_USER and REGISTRY_PASSWORD",
        )
    try:
        answer = json.loads(done.stdout)
        found = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        return None
    return found if all(found) else None


@contextmanager
def credentials(target: str) -> Iterator[Credentials]:
    """Find the credentials for a repository: the environment's, then docker's."""
    host = target.split("/")[0]
    found = login(host) or docker_login(target)
    if found is None:
        yield Credentials(host, None)
        return
    user, secret = found
    token = base64.b64encode(f"{user}:{secret}".encode()).decode()
    with memory_file(json.dumps({"auths": {host: {"auth": token}}}).encode()) as fd:
        yield Credentials(host, fd, found)
