"""Names of images in registries: how they are joined, checked and split."""

from __future__ import annotations

import re

from higgs_image import http
from higgs_image.errors import UsageError

_REPOSITORY = re.compile(
    r"(?P<host>[\w.-]+(:\d+)?|\[[0-9a-f:]+\](:\d+)?)(?P<path>(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)"
)


def repository(registry: str, name: str) -> str:
    """Join registry and image name, and check them.

    Registries know lower case only, but the name of a GitHub account may have capitals: the
    registry is put into lower case.

    Args:
        registry: host with an optional path, such as `ghcr.io/your-org`.
        name: the image's name.

    Raises:
        UsageError: one of them is malformed.
    """
    registry = registry.rstrip("/").lower()
    joined = f"{registry}/{name}"
    host = joined.split("/")[0]
    if not _REPOSITORY.fullmatch(registry) or not (set(".:") & set(host) or host == "localhost"):
        raise UsageError(
            f"{registry!r} is not a registry",
            "give host and path without https://, such as REGISTRY=ghcr.io/your-org",
        )
    if not _REPOSITORY.fullmatch(joined) or not name:
        raise UsageError(
            f"{name!r} is not a name of an image in the registry {registry}",
            "use lower case letters, digits and single separators, such as "
            "IMAGE_NAME=higgs-audio-vllm (the registry is REGISTRY=...)",
        )
    return joined


def is_loopback(registry: str) -> bool:
    """Tell whether a registry is on this machine, where plain HTTP is usual (as in Docker)."""
    return http.is_local(re.sub(r":\d+$", "", registry.split("/")[0]).strip("[]"))


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
            f"{image!r} is not an image in a registry",
            "write it as host/path@sha256:... or host/path:tag",
        )
    registry, _, last = name.rpartition("/")
    return repository(registry, last), what
