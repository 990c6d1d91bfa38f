"""Render the description of the container for Vast.ai: a template, and a search for machines.

Its names are from https://docs.vast.ai/api-reference; nothing is sent there.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Literal

import msgspec

from higgs_image.cloud.description import TemplateDescription, version

DRIVER_SHARE = 0.95
"""Memory by the driver as a share of that by the card's name: an L4 with 24 GB has 23034 MiB."""


class VastTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /api/v0/template/.

    Attributes:
        image: name without a tag.
        tag: with a digest, as Docker takes it.
        env: variables and ports as flags of docker run.
        runtype: args: the image's own entrypoint runs.
        args_str: flags of the server.
        extra_filters: of machines, by field and operator.
        recommended_disk_space: GB.
        docker_login_repo: required, as the next two; empty: the image is public.
    """

    name: str
    image: str
    tag: str
    env: str
    runtype: Literal["args"]
    args_str: str
    extra_filters: dict[str, dict[str, float | list[int]]]
    recommended_disk_space: int
    private: bool
    docker_login_repo: str = ""
    docker_login_user: str = ""
    docker_login_pass: str = ""


@dataclass(frozen=True)
class OfferFilter:
    """What a machine must have.

    Attributes:
        field: of the API.
        operator: of the API.
        value: of the API.
        search: the same for `vastai search offers`.
    """

    field: str
    operator: Literal["eq", "gte", "in"]
    value: float | list[int]
    search: str


def filters(description: TemplateDescription) -> list[OfferFilter]:
    """Return what a machine must have; the API counts memory in MB, the search in GB."""
    gpu, disk = description.gpu, description.whole_disk_gb
    ports = len(description.container.published)
    memory = round(gpu.memory_gb * DRIVER_SHARE, 1)
    cuda = float(description.cuda.minimum)
    known = sorted(100 * major + 10 * minor for major, minor in map(version, gpu.capabilities))
    listed = ",".join(map(str, known))
    return [
        OfferFilter("cuda_max_good", "gte", cuda, f"cuda_vers>={description.cuda.minimum}"),
        OfferFilter("compute_cap", "in", known, f"compute_cap in [{listed}]"),
        OfferFilter("num_gpus", "eq", gpu.count, f"num_gpus={gpu.count}"),
        OfferFilter("gpu_ram", "gte", memory * 1000, f"gpu_ram>={memory:g}"),
        OfferFilter("disk_space", "gte", disk, f"disk_space>={disk}"),
        OfferFilter("direct_port_count", "gte", ports, f"direct_port_count>={ports}"),
    ]


def template(description: TemplateDescription, image: str) -> VastTemplate:
    """Return a template.

    It has no secret: Vast.ai adds the account's variables to every instance.

    Args:
        description: the container.
        image: its full name, with a tag or a digest or both.
    """
    tagged = re.fullmatch(r"(?P<name>[^@]+):(?P<tag>[\w.-]+(?:@.+)?)", image)
    container = description.container
    ports = [port.partition("/")[0] for port in container.published]
    flags = [f"-p {x}:{x}" for x in ports]
    flags += [f"-e {shlex.quote(f'{k}={v}')}" for k, v in container.environment.items()]
    return VastTemplate(
        name=description.name,
        image=tagged["name"] if tagged else image,
        tag=tagged["tag"] if tagged else "",
        env=" ".join(flags),
        runtype="args",
        args_str=container.arguments,
        extra_filters={x.field: {x.operator: x.value} for x in filters(description)},
        recommended_disk_space=description.whole_disk_gb,
        private=not container.public,
    )


def search(description: TemplateDescription) -> str:
    """Return a command that lists machines, the cheapest first."""
    query = " ".join(x.search for x in filters(description))
    return f"vastai search offers {shlex.quote(query)} --order dph_total"
