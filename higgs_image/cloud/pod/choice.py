"""Choose the GPU of a pod: the cheapest free one that the image runs on, below a price cap."""

from __future__ import annotations

from dataclasses import dataclass

from higgs_image.cloud import cards, gpu_fit
from higgs_image.cloud.description import TemplateDescription
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import GpuType
from higgs_image.errors import NoCapacityError, PriceError, UsageError

STOCK = {"HIGH": 0, "MEDIUM": 1, "LOW": 2, "NONE": 3}


@dataclass(frozen=True)
class RatedGpu:
    """A GPU type of the catalogue.

    Attributes:
        id: of the type.
        memory: GB.
        price: USD an hour for all GPUs of a pod, in the description's cloud.
        availability: NONE, LOW, MEDIUM or HIGH.
        capability: compute capability; empty: not known here.
        misfit: why the image cannot run on it there; empty: it can.
    """

    id: str
    memory: int
    price: float
    availability: str
    capability: str
    misfit: str

    @property
    def free(self) -> bool:
        """Whether it fits and can be rented now."""
        return not self.misfit and self.availability != "NONE"

    def row(self) -> tuple[str, ...]:
        """Return it as a line of a table."""
        price = f"{self.price:.2f} USD/h" if self.price else ""
        return (self.id, f"{self.memory} GB", price, self.availability, self.misfit or "fits")


def catalogue(
    account: RunPodClient, description: TemplateDescription, gpus: frozenset[str] = frozenset()
) -> list[RatedGpu]:
    """Return every GPU type: those that fit first, by price.

    Args:
        account: at RunPod.
        description: limits of the GPU and of CUDA, and the cloud.
        gpus: compute capabilities that the image has code for; empty: those before Blackwell.
    """
    cloud, count = description.pod.cloud, description.gpu.count
    known = gpu_fit.catalogue(account, description, "POD", {"cloud": cloud})
    rated = [
        RatedGpu(
            x.id, x.memory, round(_price(x, cloud) * count, 4), x.availability,
            cards.capability(x.id) or "", _misfit(x, description, gpus),
        )
        for x in known
    ]  # fmt: skip
    return sorted(rated, key=lambda x: (bool(x.misfit), x.price, STOCK[x.availability], x.id))


def offers(
    account: RunPodClient,
    description: TemplateDescription,
    gpus: frozenset[str],
    price_cap: float,
    wanted: str = "",
) -> list[RatedGpu]:
    """Return what can be rented now, the cheapest first.

    Args:
        account: at RunPod.
        description: limits of the GPU and of CUDA, and the cloud.
        gpus: compute capabilities that the image has code for; empty: those before Blackwell.
        price_cap: USD an hour.
        wanted: id of one GPU type; empty: any.

    Raises:
        UsageError: the wanted type is unknown, or the image does not run on it.
        NoCapacityError: none that fits is free.
        PriceError: each costs more than the cap.
    """
    rated = catalogue(account, description, gpus)
    if wanted and wanted not in [x.id for x in rated]:
        raise UsageError(
            f"RunPod has no GPU type {wanted!r}",
            f"available: {', '.join(sorted(x.id for x in rated))}",
        )
    asked = [x for x in rated if wanted in ("", x.id)]
    if wanted and asked[0].misfit:
        raise UsageError(
            f"the image does not run on {wanted}: {asked[0].misfit}",
            "choose another: ./inv pod-gpus lists them",
        )
    free = [x for x in asked if x.free]
    if not free:
        fitting = [x.id for x in asked if not x.misfit]
        raise NoCapacityError(
            f"no GPU that fits is free in the {description.pod.cloud} cloud; "
            f"{', '.join(fitting) or 'none'} would fit",
            "./inv pod-gpus lists all; wait, or take the other cloud: deploy/template.toml, cloud",
        )
    if not (found := [x for x in free if x.price <= price_cap]):
        raise PriceError(
            f"the cheapest free GPU that fits, {free[0].id}, costs {free[0].price:.2f} USD an "
            f"hour, the cap is {price_cap:.2f}",
            f"allow it: --price-cap {free[0].price:.2f}, or price_cap in deploy/template.toml",
        )
    return found


def _misfit(gpu: GpuType, description: TemplateDescription, gpus: frozenset[str]) -> str:
    """Return why the image cannot run on a GPU type of the cloud; empty: it can."""
    cloud = description.pod.cloud
    if found := gpu_fit.misfit(gpu, description, gpus):
        return found
    if not (gpu.secure if cloud == "SECURE" else gpu.community) or _price(gpu, cloud) <= 0:
        return f"it is not in the {cloud} cloud"
    if not gpu_fit.has_free_host(gpu, description):
        return f"no free host has CUDA {description.cuda.minimum} or later"
    return ""


def _price(gpu: GpuType, cloud: str) -> float:
    return gpu.price.secure if cloud == "SECURE" else gpu.price.community
