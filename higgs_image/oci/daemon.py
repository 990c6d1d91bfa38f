"""A client of the Docker engine that the docker command uses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from higgs_image import process
from higgs_image.errors import EngineError

if TYPE_CHECKING:
    from docker import DockerClient


def docker_environment() -> dict[str, str]:
    """Return the environment with DOCKER_HOST set as docker's current context has it."""
    if os.environ.get("DOCKER_HOST"):
        return dict(os.environ)
    asked = process.ask(
        "docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"
    ).out.strip()
    return dict(os.environ) | ({"DOCKER_HOST": asked} if asked else {})


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
        with contextlib.closing(docker.from_env(environment=docker_environment())) as client:
            yield client
    except (DockerException, RequestException) as error:
        raise EngineError(
            f"the engine refused: {error}", "see ./inv doctor, then run again"
        ) from None
