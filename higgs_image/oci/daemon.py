"""A whole smoke test: from an image's name to a record with its evidence."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from higgs_image import process
from higgs_image.errors import EngineError

if TYPE_CHECKING:
    from docker import DockerClient

log = logging.getLogger(__name__)


# -- the engine and the image ----------------------------------------------------------------------


@contextlib.contextmanager
def engine() -> Iterator[tuple[DockerClient, str | None]]:
    """Yield a client of the engine that the docker command uses, and that engine's address.

    Raises:
        EngineError: it does not answer, or refused something.
    """
    import docker
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    host = os.environ.get("DOCKER_HOST")
    if not host:
        asked = process.run(
            ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
        )
        host = asked.out.strip() or None
    try:
        environment = os.environ | ({"DOCKER_HOST": host} if host else {})
        with contextlib.closing(docker.from_env(environment=environment)) as client:
            yield client, host
    except (DockerException, RequestException) as error:
        raise EngineError(
            f"the engine refused: {error}", "see invoke doctor, then run again"
        ) from None
