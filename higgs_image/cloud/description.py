"""Read deploy/template.toml: the container as every platform that rents GPUs is told of it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from higgs_image.errors import UsageError

FILE = Path("deploy") / "template.toml"
SSH = "22/tcp"

Variable = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_]\w*\Z")]
SecretName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_]\w*\Z")]
Port = Annotated[str, msgspec.Meta(pattern=r"^[1-9]\d{0,4}/(http|tcp)\Z")]
Capability = Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d\Z")]
Version = Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+\Z")]
Count = Annotated[int, msgspec.Meta(ge=1)]
StorageGB = Annotated[int, msgspec.Meta(ge=30)]
Positive = Annotated[float, msgspec.Meta(gt=0)]

MOST_HTTP_PORTS = 10
"""More are not proxied."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ImagePolicy(_Table, frozen=True):
    """How the image is named.

    Attributes:
        reference: by tag and digest, or by the floating tag alone.
        registry_login: the platform's id of the login for a private image; empty: it is public.
    """

    reference: Literal["digest", "floating"]
    registry_login: str = ""


class ContainerDescription(_Table, frozen=True):
    """The container.

    Attributes:
        arguments: flags of the server.
        disk_gb: GB that are lost at a restart.
        ports: as `8000/http`.
        ssh: start sshd, and publish 22/tcp.
        public: other users of the platform see the template.
        environment: variables.
        secrets: variable to the name of the account's secret that it gets.
    """

    arguments: str
    disk_gb: Count
    ports: Annotated[list[Port], msgspec.Meta(min_length=1)]
    ssh: bool = False
    public: bool = False
    environment: dict[Variable, str] = {}
    secrets: dict[Variable, SecretName] = {}

    @property
    def published(self) -> list[str]:
        """All ports, that of sshd included."""
        return [*self.ports, *([SSH] if self.ssh else [])]


class Storage(_Table, frozen=True):
    """The volume for the weights."""

    path: str
    size_gb: StorageGB


class GpuLimits(_Table, frozen=True):
    """GPUs that the container may get.

    Attributes:
        memory_gb: at least.
        capabilities: compute capabilities that the image has code for.
        count: for each container.
    """

    memory_gb: Count
    capabilities: Annotated[list[Capability], msgspec.Meta(min_length=1)]
    count: Count = 1


class CudaLimits(_Table, frozen=True):
    """CUDA versions of a host's driver.

    Attributes:
        minimum: at least.
        known: each one from there on, for a platform that compares exactly.
    """

    minimum: Version
    known: Annotated[list[Version], msgspec.Meta(min_length=1)]


class PodDefaults(_Table, frozen=True):
    """Pods that the project rents.

    Attributes:
        cloud: tier of the platform.
        price_cap: USD an hour, at most.
        hours: after which it is a leftover.
    """

    cloud: Literal["SECURE", "COMMUNITY"]
    price_cap: Positive
    hours: Positive


class EndpointScale(_Table, frozen=True):
    """How a load-balanced endpoint scales.

    Attributes:
        workers_min: that always run, and cost money.
        workers_max: at most.
        idle_seconds: after which a worker without requests ends.
        requests: running requests for each worker, above which another one starts.
        price_cap: USD an hour for a worker, at most.
    """

    workers_min: Annotated[int, msgspec.Meta(ge=0)]
    workers_max: Count
    idle_seconds: Annotated[int, msgspec.Meta(ge=1, le=3600)]
    requests: Count
    price_cap: Positive


class Readme(_Table, frozen=True):
    """What a user of the template reads, in Markdown."""

    text: str


class VariantDescription(_Table, frozen=True):
    """What differs for a variant of the image.

    Attributes:
        name: of its template and endpoint.
        capabilities: in place of those of `GpuLimits`.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    capabilities: Annotated[list[Capability], msgspec.Meta(min_length=1)]


class TemplateDescription(_Table, frozen=True):
    """The whole file."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    image: ImagePolicy
    container: ContainerDescription
    storage: Storage
    gpu: GpuLimits
    cuda: CudaLimits
    pod: PodDefaults
    endpoint: EndpointScale
    readme: Readme
    variant: dict[str, VariantDescription] = {}

    @property
    def whole_disk_gb(self) -> int:
        """Size of the one disk where there is no volume: the weights lie on it, too."""
        return self.container.disk_gb + self.storage.size_gb

    def for_variant(self, variant: str) -> TemplateDescription:
        """Return the description for a variant of the image; empty: for the default one.

        Raises:
            UsageError: the file has no such variant.
        """
        if not variant:
            return self
        if variant not in self.variant:
            raise UsageError(
                f"{FILE} has no variant {variant!r}",
                f'add [variant."{variant}"] to it; it has: {", ".join(self.variant) or "none"}',
            )
        own = self.variant[variant]
        return msgspec.structs.replace(
            self,
            name=own.name,
            gpu=msgspec.structs.replace(self.gpu, capabilities=own.capabilities),
        )


def load(root: Path, variant: str = "") -> TemplateDescription:
    """Read the file of a checkout.

    Args:
        root: of the checkout.
        variant: of the image.

    Raises:
        UsageError: it is missing, malformed, or contradicts itself, or has no such variant.
    """
    path = root / FILE
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")),
                                TemplateDescription)  # fmt: skip
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "restore it: git checkout") from None
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{FILE}: {error}", "correct that value") from None
    for message, hint in _contradictions(found):
        raise UsageError(f"{FILE}: {message}", hint)
    return found.for_variant(variant)


def version(text: str) -> tuple[int, ...]:
    """Return a version in the order of its numbers: 12.11 is above 12.2."""
    return tuple(map(int, text.split(".")))


def _contradictions(found: TemplateDescription) -> list[tuple[str, str]]:
    container = found.container
    wrong = []
    if both := sorted(container.environment.keys() & container.secrets.keys()):
        wrong.append((f"{', '.join(both)}: both a variable and a secret", "keep the secret"))
    if secret := [x for x in container.environment if x.endswith(("_KEY", "_TOKEN", "_PASSWORD"))]:
        wrong.append((f"{secret[0]} is a secret: its value must not be in a file",
                      "name the account's secret in [container.secrets]"))  # fmt: skip
    if SSH in container.ports:
        wrong.append((f"{SSH} is published by ssh = true", "set ssh, and remove the port"))
    if sum(port.endswith("/http") for port in container.ports) > MOST_HTTP_PORTS:
        wrong.append((f"more than {MOST_HTTP_PORTS} http ports", "remove some"))
    generate = container.environment.get("HIGGS_GENERATE_PORT")
    if generate and f"{generate}/http" not in container.ports:
        wrong.append((f"HIGGS_GENERATE_PORT is {generate}, and ports lack {generate}/http",
                      "add the port, or remove the variable"))  # fmt: skip
    if found.endpoint.workers_min > found.endpoint.workers_max:
        wrong.append(("workers_min is above workers_max", "lower it"))
    low = [x for x in found.cuda.known if version(x) < version(found.cuda.minimum)]
    if low:
        wrong.append((f"CUDA {low[0]} is below the minimum {found.cuda.minimum}", "remove it"))
    return wrong
