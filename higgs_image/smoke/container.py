"""The container under test: started as a user would, observed, and always removed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from higgs_image.errors import EngineError
from higgs_image.oci.container_spec import PORT, ContainerSpec
from higgs_image.oci.daemon import TIMEOUT, docker_environment
from higgs_image.smoke import diagnosis
from higgs_image.smoke.client import TimedClient
from higgs_image.smoke.record import Measured
from higgs_image.smoke.runner import Launch
from higgs_image.smoke.server import INTERVAL, RunningServer, not_ready, wait_until_healthy

if TYPE_CHECKING:
    from docker.models.containers import Container

# Its own remover of leftovers is another container, whose image would have to be pulled.
testcontainers_config.ryuk_disabled = True


class ServerContainer(RunningServer):
    """A started container and a client of its server."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.client = TimedClient(self._port())

    def _port(self) -> int:
        self.container.reload()
        ports = self.container.attrs["NetworkSettings"]["Ports"] or {}
        bound = ports.get(f"{PORT}/tcp")
        return int(bound[0]["HostPort"]) if bound else 0

    def state(self) -> dict[str, Any]:
        """Return the engine's view of it: Status, ExitCode, OOMKilled, RestartCount and so on."""
        self.container.reload()
        return dict(self.container.attrs["State"]) | {
            "RestartCount": self.container.attrs.get("RestartCount", 0)
        }

    def is_healthy(self) -> bool:
        """Tell whether GET /health is 200; its port is known once it runs."""
        if not self.client.port:
            self.client = TimedClient(self._port())
        return super().is_healthy()

    def all_logs(self) -> bytes:
        """Return all of its log, byte for byte."""
        return bytes(self.container.logs())

    def logs(self, tail: int) -> str:
        """Return the last lines of its log, without control characters."""
        text = self.container.logs(tail=tail).decode(errors="replace")
        return "\n".join(map(diagnosis.printable, text.splitlines()))

    def save_log(self, path: Path) -> None:
        """Write all of its log to a file, block by block."""
        blocks: Any = self.container.logs(stream=True, follow=False)
        with path.open("wb") as file:
            file.writelines(blocks)

    def process_ids(self) -> list[int]:
        """Return its processes, as this machine numbers them; parents first."""
        from docker.errors import DockerException

        try:
            top: Any = self.container.top()
        except DockerException:
            return []
        column = top["Titles"].index("PID")
        return [int(row[column]) for row in top["Processes"]]

    def summary(self) -> Measured:
        """Return its id, and how it ended."""
        state = self.state()
        return {
            "id": str(self.container.id),
            "status": str(state["Status"]),
            "exit_code": int(state["ExitCode"]),
            "out_of_memory": bool(state.get("OOMKilled")),
            "restarts": int(state["RestartCount"]),
        }

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used."""
        return float(self._stats()["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9

    def memory_mb(self) -> float:
        """Return the memory in use in MB (10^6 bytes), without page cache that can be dropped."""
        stats = self._stats()["memory_stats"]
        return float(stats["usage"] - stats.get("stats", {}).get("inactive_file", 0)) / 1e6

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.container.kill("SIGTERM")

    def _stats(self) -> dict[str, Any]:
        stats: Any = self.container.stats(stream=False, one_shot=True)
        return dict(stats)

    def output_of(self, *command: str) -> str | None:
        """Return the output of a program in it; None if it fails or is missing."""
        from docker.errors import DockerException

        try:
            done: Any = self.container.exec_run(list(command))
        except DockerException:
            return None
        return done.output.decode(errors="replace").strip() if done.exit_code == 0 else None


@contextlib.contextmanager
def created(spec: ContainerSpec, *, keep: bool = False) -> Iterator[DockerContainer]:
    """Yield a container that is not started yet, and remove it afterwards.

    Args:
        spec: the container.
        keep: do not remove it, unless the engine did not start it.
    """
    settings = spec.settings()
    environment, volumes, ports = (settings.pop(x) for x in ("environment", "volumes", "ports"))
    container = DockerContainer(
        spec.image,
        docker_client_kw={"timeout": TIMEOUT, "environment": docker_environment()},
        command=list(spec.arguments) or None,  # type: ignore[arg-type]  # docker takes a list, too
        env=environment,
        **settings,
    )
    container.volumes, container.ports = volumes, ports
    try:
        yield container
    except EngineError:
        keep = False
        raise
    finally:
        if not keep:
            with contextlib.suppress(Exception):
                container.stop()


def start(container: DockerContainer, timeout: float) -> tuple[ServerContainer, float]:
    """Start a container and wait until it is healthy; return it and the seconds that took.

    Raises:
        NotReadyError: the server does not start.
        EngineError: the engine refused to start the container.
    """
    from docker.errors import APIError, ImageNotFound

    begun = time.monotonic()
    try:
        container.start()
    except ImageNotFound as error:
        raise EngineError(
            f"there is no image {container.image}: {error.explanation}",
            "build it, or name one that can be pulled",
        ) from None
    except APIError as error:
        if found := diagnosis.find(error.explanation or str(error)):
            raise not_ready(found[1], f"{found[1].what} ({found[0][:300]})") from None
        raise EngineError(f"the engine refused: {error}", "see ./inv doctor") from None
    server = ServerContainer(container.get_wrapped_container())
    wait_until_healthy(server, timeout, INTERVAL)
    return server, time.monotonic() - begun


class ContainerLaunch(Launch):
    """The image in a container of this machine's engine.

    Args:
        spec: the container.
        keep: leave it behind, stopped.
    """

    def __init__(self, spec: ContainerSpec, *, keep: bool) -> None:
        self._spec, self._keep = spec, keep
        self._handle: DockerContainer | None = None

    @contextlib.contextmanager
    def created(self) -> Iterator[None]:
        """Create the container, and remove it at the end."""
        with created(self._spec, keep=self._keep) as self._handle:
            yield

    def start(self, timeout: float) -> RunningServer:
        """Start it and wait until it is healthy; see `start`."""
        assert self._handle  # noqa: S101 (within `created`)
        return start(self._handle, timeout)[0]

    def started(self) -> RunningServer | None:
        """Return the container; None if the engine did not make one."""
        try:
            return ServerContainer(self._handle.get_wrapped_container()) if self._handle else None
        except Exception:  # whatever testcontainers or the engine raises without one
            return None
