"""A client of the Docker engine that the docker command uses."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from higgs_image import process
from higgs_image.errors import EngineError

if TYPE_CHECKING:
    from docker import DockerClient

TIMEOUT = 300
"""Seconds that the engine may take to answer; on a busy disk, 60 were too few to make an image."""


def docker_environment() -> dict[str, str]:
    """Return the environment with DOCKER_HOST set as docker's current context has it."""
    if os.environ.get("DOCKER_HOST"):
        return dict(os.environ)
    asked = _context_host(*map(os.environ.get, ("DOCKER_CONTEXT", "DOCKER_CONFIG", "HOME")))
    return dict(os.environ) | ({"DOCKER_HOST": asked} if asked else {})


@functools.cache
def _context_host(*_chosen: str | None) -> str:
    """Ask once for the engine's address in the context that these variables choose."""
    command = ("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    return process.ask(*command).out.strip()


@contextlib.contextmanager
def docker_client() -> Iterator[DockerClient]:
    """Yield a client of the engine; DOCKER_TLS_VERIFY and DOCKER_CERT_PATH work as for docker.

    Raises:
        EngineError: the engine does not answer, or refused a request.
    """
    import docker
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        opened = docker.from_env(timeout=TIMEOUT, environment=docker_environment())
        with contextlib.closing(opened) as client:
            yield client
    except (DockerException, RequestException) as error:
        raise EngineError(
            f"the engine refused: {error}", "see ./inv doctor, then run again"
        ) from None
