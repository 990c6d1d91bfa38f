"""Stage `push`: the layout's image to a registry, by skopeo, with its digest kept and read back.

Credentials come from docker's configuration or credential helpers, which skopeo reads itself, or
from REGISTRY_USER and REGISTRY_PASSWORD (GITHUB_ACTOR and GITHUB_TOKEN for ghcr.io). Those are
handed over in an anonymous memory file: never in an argument, a log or a file on disk.
"""

from __future__ import annotations

import ipaddress
import logging
import re

from higgs_image.errors import (
    UsageError,
)
from higgs_image.oci import reference

log = logging.getLogger(__name__)


_REPOSITORY = re.compile(
    r"(?P<host>[\w.-]+(:\d+)?|\[[0-9a-f:]+\](:\d+)?)(?P<path>(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)"
)


def repository(registry: str, name: str) -> str:
    """Join registry and image name, and check them.

    Args:
        registry: host with an optional path, such as `ghcr.io/your-org`.
        name: the image's name.

    Raises:
        UsageError: this is no registry.
    """
    joined = f"{registry.rstrip('/')}/{name}"
    host = joined.split("/")[0]
    if not _REPOSITORY.fullmatch(joined) or not (set(".:") & set(host) or host == "localhost"):
        raise UsageError(
            f"{registry!r} is no registry",
            "give host and path in lower case and without https://, "
            "such as REGISTRY=ghcr.io/your-org",
        )
    return joined


def is_loopback(registry: str) -> bool:
    """Tell whether a registry is on this machine, where plain HTTP is the custom (as in Docker)."""
    host = re.sub(r":\d+$", "", registry.split("/")[0]).strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split(image: str) -> tuple[str, str]:
    """Split `host/path@digest` or `host/path:tag` into repository and the rest.

    Raises:
        UsageError: it names neither tag nor digest, or no registry.
    """
    name, at, what = image.partition("@")
    if not at:
        name, _, what = image.rpartition(":")
    if not name or not what or "/" in what or "/" not in name:
        raise UsageError(
            f"{image!r} is no image in a registry",
            "write it as host/path@sha256:... or host/path:tag",
        )
    return reference.repository(*name.rsplit("/", 1)), what
