"""Which GPU types of RunPod's catalogue the image runs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from higgs_image.cloud import cards
from higgs_image.cloud.description import TemplateDescription, version
from higgs_image.cloud.image_rules import has_code
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import GpuType, ListGpuTypesResponse


def catalogue(
    account: RunPodClient,
    description: TemplateDescription,
    product: Literal["POD", "SERVERLESS"],
    more: Mapping[str, str] | None = None,
) -> list[GpuType]:
    """Return every GPU type, with what is free now.

    Args:
        account: at RunPod.
        description: limits of the GPU and of CUDA.
        product: for which it is to be free.
        more: parameters of the request.
    """
    query = {
        "include": "AVAILABILITY", "product": product, "count": str(description.gpu.count),
        "minCudaVersion": description.cuda.minimum, **(more or {}),
    }  # fmt: skip
    return account.get("/v2/catalog/gpus", ListGpuTypesResponse, query).gpus


def misfit(gpu: GpuType, description: TemplateDescription, gpus: frozenset[str]) -> str:
    """Return why the image cannot run on a GPU type, whatever is free now; empty: it can.

    Args:
        gpu: of the catalogue.
        description: limits of the GPU.
        gpus: compute capabilities that the image has code for; empty: those before Blackwell.
    """
    limits, capability = description.gpu, cards.capability(gpu.id)
    if gpu.manufacturer != "NVIDIA":
        return f"it is made by {gpu.manufacturer}"
    if gpu.memory < limits.memory_gb:
        return f"the image needs {limits.memory_gb} GB"
    if capability is None:
        return "its compute capability is not known here"
    if not has_code(gpus, capability):
        return f"the image has no code for compute capability {capability}"
    if capability not in limits.capabilities:
        return f"deploy/template.toml does not allow compute capability {capability}"
    return ""


def has_free_host(gpu: GpuType, description: TemplateDescription) -> bool:
    """Tell whether a free host has a driver that is new enough; True if RunPod does not say."""
    least = version(description.cuda.minimum)
    return not gpu.cuda_versions or any(
        x.available and version(x.version) >= least for x in gpu.cuda_versions
    )
