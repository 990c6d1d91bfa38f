"""Containers that an earlier smoke test left behind, because it was killed.

A container holds its GPU until it is removed, so its labels name the process that started it, and
its longest lifetime. The next smoke test removes it if that process has ended, which only a process
of the same kernel and process namespace can tell. It also removes the containers of all other
processes and machines that are older than their lifetime by the engine's own clock. A live run
never exceeds that lifetime (session.py), so two machines can share an engine.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from higgs_image import process
from higgs_image.labels import LABEL

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

log = logging.getLogger(__name__)

MARK = LABEL + "smoke"
"""Label of every container of a smoke test: `run`, or `keep` for one that is never removed."""
FOLDER = LABEL + "smoke-folder"
"""Label with the build folder of the checkout that the container belongs to."""
OWNER = LABEL + "smoke-owner"
"""Label with the process that started the container: boot, process namespace, id, start time."""
LIFETIME = LABEL + "smoke-lifetime"
"""Label with the seconds after which the container is a leftover, even one of another machine."""


def owner_labels(folder: Path, *, lifetime: float, keep: bool = False) -> dict[str, str]:
    """Return the labels of a container that this process starts.

    Args:
        folder: the build folder of the checkout.
        lifetime: seconds; longer than this process can need the container.
        keep: never remove it.
    """
    pid = os.getpid()
    return {
        MARK: "keep" if keep else "run",
        FOLDER: str(folder),
        OWNER: f"{_place()} {pid} {process.started_at(pid)}",
        LIFETIME: f"{lifetime:.0f}",
    }


def _place() -> str:
    """Return the boot of this kernel and the namespace in which process ids have a meaning."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "unknown"


def is_abandoned(owner: str) -> bool:
    """Tell whether a container's process has ended; False if it cannot be known here."""
    place, _, rest = owner.partition(" ")
    pid, _, started = rest.partition(" ")
    known = place == _place() != "unknown" and pid.isdigit()
    return known and not process.is_alive(int(pid), started)


def is_expired(lifetime: str, created: str, now: str) -> bool:
    """Tell whether a container is older than its lifetime.

    Args:
        lifetime: seconds, as in the label.
        created: time of its creation by the engine's clock (RFC 3339).
        now: the engine's present time.
    """
    try:
        age = datetime.datetime.fromisoformat(now) - datetime.datetime.fromisoformat(created)
        return age.total_seconds() > float(lifetime)
    except ValueError:
        return False


@contextlib.contextmanager
def no_leftovers(client: DockerClient, folder: Path) -> Iterator[None]:
    """Remove leftovers of earlier runs, and afterwards those of the run inside.

    Each container is removed by its own context manager; but the engine may know one that Ctrl-C
    interrupted while it was created. Containers that this process had before the run stay.

    Args:
        client: of the engine.
        folder: the build folder of the checkout.
    """
    now = str(client.info().get("SystemTime", ""))
    _remove(
        container
        for container in _running_tests(client)
        if is_expired(container.labels.get(LIFETIME, ""), container.attrs["Created"], now)
        or (
            container.labels.get(FOLDER) == str(folder)
            and is_abandoned(container.labels.get(OWNER, ""))
        )
    )
    own = owner_labels(folder, lifetime=0)[OWNER]
    before = {container.id for container in _running_tests(client)}
    try:
        yield
    finally:
        _remove(
            container
            for container in _running_tests(client)
            if container.labels.get(OWNER) == own
            and container.labels.get(FOLDER) == str(folder)
            and container.id not in before
        )


def _running_tests(client: DockerClient) -> list[Container]:
    found: list[Container] = client.containers.list(
        all=True, filters={"label": f"{MARK}=run"}, ignore_removed=True
    )
    return found


def _remove(containers: Iterable[Container]) -> None:
    from docker.errors import APIError, NotFound

    for container in containers:
        log.info("smoke: removing %s, which an earlier run left behind", container.short_id)
        with contextlib.suppress(NotFound):
            try:
                container.remove(force=True, v=True)
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
                container.wait(condition="removed")  # another run is removing it
