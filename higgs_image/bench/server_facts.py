"""What is known of the server: from its routes, and from its container if it runs here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from higgs_image import http
from higgs_image.bench.target import headers
from higgs_image.errors import EngineError, NetworkError
from higgs_image.oci.daemon import docker_client
from higgs_image.smoke.image import registry_digest

if TYPE_CHECKING:
    from docker.models.containers import Container

LOG_LINES = 5000
"""Lines of the log, from its end, in which the start is looked for."""

_SECRET = re.compile(r"(--[\w-]*(?:key|token|secret|password)[\w-]*[= ]\s*)\S+", re.I)

STARTS = ("starting the server", "Started server process", "Application startup")
"""Words of the line in which a server says how it was started; the first that is found counts."""


class ServerFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a server; empty or None is not known.

    Attributes:
        version: that it tells at /version.
        models: that it serves.
        image: name of its image.
        digest: of that image.
        gpu: product name.
        gpus: how many of them.
        driver: of NVIDIA.
        flags: arguments of its container.
        start_line: of its log.
        note: what a person wrote of it.
    """

    version: str = ""
    models: list[str] = []
    image: str = ""
    digest: str | None = None
    gpu: str = ""
    gpus: int = 0
    driver: str = ""
    flags: list[str] = []
    start_line: str = ""
    note: str = ""


def find_facts(url: str, given: ServerFacts) -> ServerFacts:
    """Ask a server, and its container if there is one on this machine, what it is.

    Args:
        url: of the server.
        given: what a person says of it, which counts more than what is found.
    """
    version, models = _json(f"{url}/version"), _json(f"{url}/v1/models")
    found = ServerFacts(
        version=str(version.get("version", "")) if isinstance(version, dict) else "",
        models=[str(x) for x in _ids(models)],
    )
    parts = urlsplit(url)
    if http.is_local(parts.hostname or ""):
        found = _with_container(found, parts.port or 80)
    changed = {
        name: value
        for name in given.__struct_fields__
        if (value := getattr(given, name)) != getattr(ServerFacts(), name)
    }
    return msgspec.structs.replace(found, **changed)


def require_answer(url: str) -> None:
    """Refuse a server that does not answer, or answers that it cannot serve.

    Raises:
        NetworkError: it does not answer, or with 502, 503 or 504.
    """
    try:
        found = http.request("GET", f"{url}/v1/models", headers=headers(), timeout=30)
    except NetworkError as error:
        raise NetworkError(error.message, "start the server, or correct the URL") from None
    if found.status in (502, 503, 504):
        said = " ".join(found.body.decode(errors="replace").split())[:200]
        raise NetworkError(
            f"{url} answers {found.status}: {said or found.reason}",
            "it may still load, or be ending: wait until it is ready (/ping answers 200)",
        )


def voices(url: str) -> list[str]:
    """Return the names of a server's voices; empty if it does not tell them."""
    found = _json(f"{url}/v1/audio/voices")
    entries = found.get("voices", found.get("data", [])) if isinstance(found, dict) else found
    if not isinstance(entries, list):
        return []
    return [str(x.get("id") or x.get("name")) if isinstance(x, dict) else str(x) for x in entries]


def _ids(models: Any) -> list[Any]:
    entries = models.get("data", []) if isinstance(models, dict) else []
    return [x.get("id", "") for x in entries if isinstance(x, dict)]


def _json(url: str) -> Any:
    with contextlib.suppress(NetworkError, ValueError):
        answer = http.request("GET", url, headers=headers(), timeout=10)
        if answer.status == 200:
            return answer.json()
    return {}


def _with_container(found: ServerFacts, port: int) -> ServerFacts:
    """Add what the engine knows of the container that publishes a port of this machine."""
    try:
        with docker_client() as client:
            for container in client.containers.list():
                published = container.attrs["NetworkSettings"]["Ports"] or {}
                ports = {x["HostPort"] for binds in published.values() for x in binds or ()}
                if str(port) in ports:
                    return _of_container(found, container)
    except EngineError:
        pass
    return found


def _joined(arguments: Iterable[object]) -> Iterator[str]:
    """Yield each flag together with its value."""
    flag = ""
    for argument in map(str, arguments):
        if argument.startswith("-"):
            if flag:
                yield flag
            flag = argument
        else:
            yield f"{flag} {argument}".strip()
            flag = ""
    if flag:
        yield flag


def _masked(text: str) -> str:
    """Hide the values of flags that hold a secret."""
    return _SECRET.sub(r"\1***", text)


def _of_container(found: ServerFacts, container: Container) -> ServerFacts:
    config, image = container.attrs["Config"], container.image
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    asked: Any = container.exec_run(query)
    shown = asked.output.decode(errors="replace") if asked.exit_code == 0 else ""
    cards = [x.split(", ") for x in shown.splitlines() if ", " in x]
    log: Any = container.logs(tail=LOG_LINES)
    lines = log.decode(errors="replace").splitlines()
    starts = (x for words in STARTS for x in lines if words in x)
    return msgspec.structs.replace(
        found,
        image=str(config["Image"]),
        digest=image and registry_digest(
            str(config["Image"]), str(image.id), image.attrs.get("RepoDigests") or []
        ),
        gpu=cards[0][0] if cards else "",
        gpus=len(cards),
        driver=cards[0][1] if cards else "",
        flags=[_masked(str(x)) for x in _joined(config.get("Cmd") or ())],
        start_line=_masked(next(starts, "")[:500]),
    )  # fmt: skip
