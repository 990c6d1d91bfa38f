"""Choose the GPU of a pod: the cheapest free one that the image runs on, below a price cap."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from higgs_image.cloud import cards
from higgs_image.cloud.description import TemplateDescription, version
from higgs_image.cloud.image_rules import has_code
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import GpuType, ListGpuTypesResponse
from higgs_image.errors import NoCapacityError, PriceError, UsageError

log = logging.getLogger(__name__)

STOCK = {"HIGH": 0, "MEDIUM": 1, "LOW": 2, "NONE": 3}


@dataclass(frozen=True)
class GpuOffer:
    """A GPU type that a pod can have.

    Attributes:
        id: of the type.
        memory: GB.
        price: USD an hour, for all GPUs of the pod.
        availability: LOW, MEDIUM or HIGH.
        capability: compute capability.
    """

    id: str
    memory: int
    price: float
    availability: str
    capability: str


def offers(
    account: RunPodClient,
    description: TemplateDescription,
    gpus: frozenset[str],
    price_cap: float,
    wanted: str = "",
) -> list[GpuOffer]:
    """Return what can be rented now, the cheapest first.

    Args:
        account: at RunPod.
        description: limits of the GPU and of CUDA.
        gpus: compute capabilities that the image has code for; empty: those before Blackwell.
        price_cap: USD an hour.
        wanted: id of one GPU type; empty: any.

    Raises:
        UsageError: the wanted type is unknown, or the image does not run on it.
        NoCapacityError: none that fits is free.
        PriceError: each costs more than the cap.
    """
    cloud, limits = description.pod.cloud, description.gpu
    query = {
        "include": "AVAILABILITY", "product": "POD", "cloud": cloud, "count": str(limits.count),
        "minCudaVersion": description.cuda.minimum,
    }  # fmt: skip
    known = account.get("/v2/catalog/gpus", ListGpuTypesResponse, query).gpus
    if wanted and wanted not in [x.id for x in known]:
        raise UsageError(
            f"RunPod has no GPU type {wanted!r}",
            f"available: {', '.join(sorted(x.id for x in known))}",
        )
    asked = [x for x in known if wanted in ("", x.id)]
    fitting = [x for x in asked if _fits(x, description, gpus)]
    need = (
        f"{limits.memory_gb} GB or more, compute capability {', '.join(limits.capabilities)}, "
        f"and CUDA {description.cuda.minimum} or later"
    )
    if not fitting and wanted:
        raise UsageError(f"the image does not run on {wanted}: it needs {need}", "choose another")
    free = [x for x in fitting if x.availability != "NONE" and _has_cuda(x, description)]
    if not free:
        raise NoCapacityError(
            f"no GPU is free in the {cloud} cloud that has {need} ({len(fitting)} types have)",
            "wait, or take the other cloud: cloud in deploy/template.toml",
        )
    priced = sorted(
        (
            GpuOffer(
                x.id, x.memory, round(_price(x, cloud) * limits.count, 4), x.availability,
                cards.capability(x.id) or "",
            )
            for x in free
        ),
        key=lambda x: (x.price, STOCK[x.availability], x.id),
    )  # fmt: skip
    found = [x for x in priced if x.price <= price_cap]
    if not found:
        raise PriceError(
            f"the cheapest free GPU that fits, {priced[0].id}, costs {priced[0].price:.2f} USD an "
            f"hour, the cap is {price_cap:.2f}",
            f"allow it: --price-cap {priced[0].price:.2f}, or price_cap in deploy/template.toml",
        )
    return found


def _fits(gpu: GpuType, description: TemplateDescription, gpus: frozenset[str]) -> bool:
    """Tell whether the image runs on a GPU type, and the cloud has it at a price."""
    cloud = description.pod.cloud
    if not (gpu.secure if cloud == "SECURE" else gpu.community) or _price(gpu, cloud) <= 0:
        return False
    if gpu.manufacturer != "NVIDIA" or gpu.memory < description.gpu.memory_gb:
        return False
    capability = cards.capability(gpu.id)
    if capability is None:
        log.info("pod: %s is not chosen: its compute capability is not known here", gpu.id)
        return False
    return capability in description.gpu.capabilities and has_code(gpus, capability)


def _has_cuda(gpu: GpuType, description: TemplateDescription) -> bool:
    """Tell whether a free host has a driver that is new enough; True if RunPod does not say."""
    least = version(description.cuda.minimum)
    return not gpu.cuda_versions or any(
        x.available and version(x.version) >= least for x in gpu.cuda_versions
    )


def _price(gpu: GpuType, cloud: str) -> float:
    return gpu.price.secure if cloud == "SECURE" else gpu.price.community
