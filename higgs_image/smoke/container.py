"""The container under test: started as a user would, observed, and always removed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import WaitStrategy, WaitStrategyTarget

from higgs_image import retry
from higgs_image.errors import EngineError
from higgs_image.oci.container_spec import PORT, ContainerSpec
from higgs_image.oci.daemon import docker_environment
from higgs_image.smoke import diagnosis, report
from higgs_image.smoke.client import BrokenAnswerError, TimedClient
from higgs_image.smoke.diagnosis import Diagnosis

if TYPE_CHECKING:
    from docker.models.containers import Container

log = logging.getLogger(__name__)

# Its own remover of leftovers is another container, whose image would have to be pulled.
testcontainers_config.ryuk_disabled = True

LOG_LINES = 400
"""Lines of the log in which a reason is looked for: a few tracebacks."""
PROGRESS = 5.0
"""Seconds between two lines of progress."""


class NotReadyError(Exception):
    """The server cannot start, or did not in time.

    Args:
        what: that happened.
        hint: what it means and what to do; empty if unknown.
        tail: the end of the log.
        of_machine: the machine lacks something, which says nothing about the image.
    """

    def __init__(
        self, what: str, hint: str = "", tail: str = "", *, of_machine: bool = False
    ) -> None:
        super().__init__(what)
        self.tail, self.of_machine = tail, of_machine
        self.reason = f"{what}: {hint}" if hint else what


class ServerContainer:
    """A started container and a client of its server."""

    has_own_voice = True

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

    @property
    def alive(self) -> bool:
        """Whether the process that was started still runs."""
        return _is_alive(self.state())

    def is_healthy(self) -> bool:
        """Tell whether GET /health is 200."""
        port = self.client.port or self._port()
        self.client = TimedClient(port)
        try:
            return bool(port) and TimedClient(port, timeout=10).get("/health").status == 200
        except BrokenAnswerError:
            return False

    def logs(self, tail: int) -> str:
        """Return the last lines of its log, without control characters."""
        text = self.container.logs(tail=tail).decode(errors="replace")
        return "\n".join(diagnosis.printable(line) for line in text.splitlines())

    def tail(self) -> str:
        """Return the end of its log as a report shows it."""
        lines = self.logs(report.TAIL).splitlines()
        return "\n".join(line[: report.LONGEST] for line in lines)

    def save_log(self, path: Path) -> None:
        """Write all of its log to a file, byte for byte."""
        blocks: Any = self.container.logs(stream=True, follow=False)
        with path.open("wb") as file:
            file.writelines(blocks)

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


def _is_alive(state: Mapping[str, Any]) -> bool:
    return state["Status"] in ("created", "running") and not state["RestartCount"]


class HealthyWait(WaitStrategy):
    """Wait until /health is 200, and stop as soon as that cannot happen any more."""

    def wait_until_ready(self, container: WaitStrategyTarget) -> None:
        """Wait, and log progress.

        Raises:
            NotReadyError: the container ended, restarted, logged a fatal line, or took too long.
        """
        server = ServerContainer(container.get_wrapped_container())
        started = reported = time.monotonic()

        def ready() -> bool:
            nonlocal reported
            state = server.state()
            if not _is_alive(state):
                raise _ended(server, state)
            if server.is_healthy():
                return True
            if found := diagnosis.find(server.logs(LOG_LINES)):
                time.sleep(1)  # for the rest of the traceback
                raise _not_ready(found[1], f"{found[1].what} ({found[0][:200]})", server.tail())
            if time.monotonic() - reported > PROGRESS:
                reported = time.monotonic()
                last = server.logs(1)[:120] or "(no log yet)"
                log.info("smoke: %3.0f s, %s: %s", reported - started, state["Status"], last)
            return False

        if not retry.wait_until(ready, self._startup_timeout, interval=self._poll_interval):
            raise NotReadyError(
                f"it was not healthy within {self._startup_timeout:.0f} s",
                "see the end of its log, or give it more time: --timeout",
                server.tail(),
            )


def _ended(server: ServerContainer, state: Mapping[str, Any]) -> NotReadyError:
    code, killed = int(state["ExitCode"]), bool(state.get("OOMKilled"))
    how = "restarted" if state["RestartCount"] else f"ended with status {code}"
    what, text = f"the container {how} before it was healthy", server.logs(LOG_LINES)
    if refusal := diagnosis.refusal(text):
        of_machine = code in diagnosis.OF_MACHINE
        return NotReadyError(f"{what}: {refusal}", "", server.tail(), of_machine=of_machine)
    found = diagnosis.find(text)
    meaning = found[1] if found else diagnosis.of_exit(code, out_of_memory=killed)
    error = diagnosis.last_error(text)
    return _not_ready(
        meaning, f"{what} ({meaning.what})" + f": {error[:200]}" * bool(error), server.tail()
    )


def _not_ready(meaning: Diagnosis, what: str, tail: str = "") -> NotReadyError:
    return NotReadyError(what, meaning.hint, tail, of_machine=meaning.of_machine)


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
        docker_client_kw={"environment": docker_environment()},
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
            raise _not_ready(found[1], f"{found[1].what} ({found[0][:300]})") from None
        raise EngineError(f"the engine refused: {error}", "see invoke doctor") from None
    wait = HealthyWait().with_startup_timeout(int(timeout)).with_poll_interval(0.25)
    wait.wait_until_ready(container)
    return ServerContainer(container.get_wrapped_container()), time.monotonic() - begun
