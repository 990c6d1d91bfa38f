"""The container under test: started as a user would, watched, and removed whatever happens."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import WaitStrategy, WaitStrategyTarget

from higgs_image.errors import EngineError
from higgs_image.labels import LABEL
from higgs_image.smoke import diagnosis, report
from higgs_image.smoke.client import Broken, Client

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

log = logging.getLogger(__name__)

# Its own remover of leftovers is another container, of an image that would have to be pulled.
testcontainers_config.ryuk_disabled = True

MARK = LABEL + "smoke"
"""Label of every container of ours: `run`, or `keep` where that was asked for."""
PLACE = LABEL + "smoke-folder"
"""Label that tells whose it is, by the checkout's build folder."""

OWNER = LABEL + "smoke-owner"
"""Label that tells which process started it: name of the machine, process, time of its start."""

PORT = 8000
LOOKED_AT = 400
"""Lines of the log in which the reason is looked for: a few tracebacks."""
PROGRESS = 5.0
"""Seconds between two lines of progress."""


class NotReady(Exception):
    """The server cannot come up, or did not in time.

    Args:
        what: happened.
        hint: what it means and what to do; empty if unknown.
        tail: the end of its log.
        of_machine: it is the machine that lacks something: of the image that says nothing.
    """

    def __init__(
        self, what: str, hint: str = "", tail: str = "", *, of_machine: bool = False
    ) -> None:
        super().__init__(what)
        self.what, self.hint, self.tail, self.of_machine = what, hint, tail, of_machine

    @property
    def reason(self) -> str:
        """All but the log, in one line."""
        return f"{self.what}: {self.hint}" if self.hint else self.what


@dataclass(frozen=True)
class Setup:
    """How a container is started.

    Attributes:
        image: its name or digest.
        place: whose it is.
        environment: variables.
        mounts: folder of this machine, or name of a volume, to path; all read-only but `writable`.
        writable: the mounts that are not read-only.
        arguments: for the server; none: the image's own.
        gpus: ids of GPUs, `all`, or none.
        shm_size: of /dev/shm in a private IPC namespace; empty: the host's, as README has it.
        keep: do not remove it at the end.
    """

    image: str
    place: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    writable: frozenset[str] = frozenset()
    arguments: list[str] = field(default_factory=list)
    gpus: str = ""
    shm_size: str = ""
    keep: bool = False

    def options(self) -> dict[str, Any]:
        """Return what the engine's API is told besides image, environment and mounts."""
        from docker.types import DeviceRequest

        options: dict[str, Any] = {"labels": labels(self.place, keep=self.keep)}
        if self.gpus:
            wanted = {"count": -1} if self.gpus == "all" else {"device_ids": self.gpus.split(",")}
            options["device_requests"] = [DeviceRequest(**wanted, capabilities=[["gpu"]])]
            options["ipc_mode"] = None if self.shm_size else "host"
        if self.shm_size:
            options["shm_size"] = self.shm_size
        return options


def labels(place: Path, *, keep: bool = False) -> dict[str, str]:
    """Return the labels by which a container is known as this process's."""
    return {
        MARK: "keep" if keep else "run",
        PLACE: str(place),
        OWNER: f"{platform.node()} {os.getpid()} {_started(os.getpid())}",
    }


def _started(process: int) -> str:
    """Return when a process of this machine started, in the kernel's ticks; empty if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _is_left(owner: str) -> bool:
    """Whether a process of this machine is gone; of another machine nobody here can tell."""
    node, _, rest = owner.partition(" ")
    process, _, started = rest.partition(" ")
    return node == platform.node() and process.isdigit() and _started(int(process)) != started


class Server:
    """A started container."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.client = Client(self._port())

    def _port(self) -> int:
        self.container.reload()
        ports = self.container.attrs["NetworkSettings"]["Ports"] or {}
        bound = ports.get(f"{PORT}/tcp")
        return int(bound[0]["HostPort"]) if bound else 0

    def state(self) -> dict[str, Any]:
        """Return the engine's view of it: Status, ExitCode, OOMKilled and so on."""
        self.container.reload()
        return dict(self.container.attrs["State"]) | {
            "RestartCount": self.container.attrs.get("RestartCount", 0)
        }

    @property
    def alive(self) -> bool:
        """Whether its process runs, and is the one that was started."""
        state = self.state()
        return state["Status"] in ("created", "running") and not state["RestartCount"]

    def logs(self, tail: int) -> str:
        """Return as many lines of the end of its log, without what a terminal would obey."""
        text = self.container.logs(tail=tail).decode(errors="replace")
        return "\n".join(diagnosis.printable(line) for line in text.splitlines())

    def save_log(self, path: Path) -> None:
        """Write all of its log to a file, however large, as it is."""
        pieces: Any = self.container.logs(stream=True, follow=False)
        with path.open("wb") as file:
            file.writelines(pieces)

    def cpu_seconds(self) -> float:
        """Return the processor time it has used."""
        return float(self._stats()["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9

    def memory_mb(self) -> float:
        """Return the memory it uses in MB (10^6 bytes), without the page cache it could give up."""
        stats = self._stats()["memory_stats"]
        return float(stats["usage"] - stats.get("stats", {}).get("inactive_file", 0)) / 1e6

    def _stats(self) -> dict[str, Any]:
        stats: Any = self.container.stats(stream=False, one_shot=True)
        return dict(stats)

    def output_of(self, *command: str) -> str | None:
        """Return what a program in it prints; None if it fails or is not there."""
        from docker.errors import DockerException

        try:
            done: Any = self.container.exec_run(list(command))
        except DockerException:
            return None
        return done.output.decode(errors="replace").strip() if done.exit_code == 0 else None


class Ready(WaitStrategy):
    """Waits until /health is 200; ends early when that cannot come any more."""

    def wait_until_ready(self, container: WaitStrategyTarget) -> None:
        """Wait, and say now and then what is going on.

        Raises:
            NotReady: it ended, restarted, logged a fatal line, or took too long.
        """
        server = Server(container.get_wrapped_container())
        started = said = time.monotonic()
        while True:
            now = time.monotonic() - started
            state = server.state()
            if state["Status"] not in ("created", "running") or state["RestartCount"]:
                raise self._ended(server, state)
            if server.client.port == 0:
                server.client = Client(server._port())
            elif _healthy(server.client.port):
                return
            if found := diagnosis.find(server.logs(tail=LOOKED_AT)):
                time.sleep(1)  # for the rest of the traceback
                line, hint = found
                raise NotReady(
                    f"{hint.what} ({line[:200]})",
                    hint.way_out,
                    _tail(server),
                    of_machine=hint.of_machine,
                )
            if now > self._startup_timeout:
                raise NotReady(
                    f"it was not healthy within {self._startup_timeout:.0f} s",
                    "see the end of its log, or give it more time: --timeout",
                    _tail(server),
                )
            if time.monotonic() - said > PROGRESS:
                said = time.monotonic()
                last = server.logs(1)[:120] or "(no log yet)"
                log.info("smoke: %3.0f s, %s: %s", now, state["Status"], last)
            time.sleep(self._poll_interval)

    def _ended(self, server: Server, state: Mapping[str, Any]) -> NotReady:
        code, killed = int(state["ExitCode"]), bool(state.get("OOMKilled"))
        how = "restarted" if state["RestartCount"] else f"ended with status {code}"
        what, said = f"the container {how} before it was healthy", server.logs(tail=LOOKED_AT)
        if told := diagnosis.refusal(said):  # the start code's own words, way out included
            of_machine = code in diagnosis.OF_MACHINE
            return NotReady(f"{what}: {told}", "", _tail(server), of_machine=of_machine)
        found = diagnosis.find(said)
        hint = found[1] if found else diagnosis.of_exit(code, out_of_memory=killed)
        error = diagnosis.last_error(said)
        return NotReady(
            f"{what} ({hint.what})" + f": {error[:200]}" * bool(error),
            hint.way_out,
            _tail(server),
            of_machine=hint.of_machine,
        )


def _healthy(port: int) -> bool:
    try:
        return Client(port, patience=10).get("/health").status == 200
    except Broken:
        return False


def _tail(server: Server) -> str:
    lines = server.logs(report.TAIL).splitlines()
    return "\n".join(line[: report.LONGEST] for line in lines)


@contextlib.contextmanager
def created(setup: Setup, host: str | None) -> Iterator[DockerContainer]:
    """Yield a container that is not yet started; it is removed in every case, unless kept.

    One that the engine did not start has nothing to keep.

    Args:
        setup: how it is to be started.
        host: the engine's address, as DOCKER_HOST has it.
    """
    environment = os.environ | ({"DOCKER_HOST": host} if host else {})
    container = DockerContainer(
        setup.image,
        docker_client_kw={"environment": environment},
        command=setup.arguments or None,  # type: ignore[arg-type]
        env=dict(setup.environment),
        volumes=[
            (source, target, "rw" if source in setup.writable else "ro")
            for source, target in setup.mounts.items()
        ],
        **setup.options(),
    )
    container.ports[f"{PORT}/tcp"] = ("127.0.0.1", None)  # type: ignore[assignment]
    keep = setup.keep
    try:
        yield container
    except EngineError:
        keep = False
        raise
    finally:
        if not keep:
            with contextlib.suppress(Exception):
                container.stop()


@contextlib.contextmanager
def nothing_left(client: DockerClient, place: Path) -> Iterator[None]:
    """Remove what a killed run of the same checkout left, and afterwards what this one did.

    Each container has an end of its own; but one that is being made when Ctrl-C comes is known to
    the engine alone. What this process had started before is not this run's.
    """
    _remove(x for x in _ours(client, place) if _is_left(x.labels.get(OWNER, "")))
    own, before = labels(place)[OWNER], {x.id for x in _ours(client, place)}
    try:
        yield
    finally:
        mine = [x for x in _ours(client, place) if x.labels.get(OWNER) == own]
        _remove(x for x in mine if x.id not in before)


def _ours(client: DockerClient, place: Path) -> list[Container]:
    found: list[Container] = client.containers.list(
        all=True, filters={"label": [f"{MARK}=run", f"{PLACE}={place}"]}, ignore_removed=True
    )
    return found


def _remove(containers: Iterable[Container]) -> None:
    from docker.errors import NotFound

    for container in containers:
        log.info("smoke: removing %s, left by a run that was ended", container.short_id)
        with contextlib.suppress(NotFound):
            container.remove(force=True, v=True)


def start(container: DockerContainer, timeout: float) -> tuple[Server, float]:
    """Start it and wait until it is healthy; return it and the seconds that took.

    Raises:
        NotReady: it does not come up.
        EngineError: the engine refused to start it.
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
            line, hint = found
            raise NotReady(
                f"{hint.what} ({line[:300]})", hint.way_out, of_machine=hint.of_machine
            ) from None
        raise EngineError(f"the engine refused: {error}", "see invoke doctor") from None
    Ready().with_startup_timeout(int(timeout)).with_poll_interval(0.25).wait_until_ready(container)
    return Server(container.get_wrapped_container()), time.monotonic() - begun
