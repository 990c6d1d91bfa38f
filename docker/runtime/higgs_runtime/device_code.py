"""Checks whether the image has code for the GPUs: the build leaves out that for all others."""

from __future__ import annotations

import re

from higgs_runtime.errors import UnsupportedGpuError
from higgs_runtime.image import ImageFacts
from higgs_runtime.nvml import GpuMachine


def check(
    machine: GpuMachine, tensor_parallel: int, facts: ImageFacts
) -> list[UnsupportedGpuError]:
    """Return an error for each used GPU that the image has no code for.

    Args:
        machine: what NVML reports.
        tensor_parallel: number of GPUs over which the model is spread.
        facts: of this image.
    """
    found: list[UnsupportedGpuError] = []
    only = re.search(r"(-sm\d+)+", facts.tag)
    for gpu in machine.gpus[:tensor_parallel]:
        if gpu.capability is None or not facts.gpus:
            continue
        capability = "{}.{}".format(*gpu.capability)
        if capability not in facts.gpus:
            known = ", ".join(sorted(facts.gpus))
            found.append(
                UnsupportedGpuError(
                    f"{gpu.name} has compute capability {capability}, and this image has code "
                    f"for {known} only",
                    f"pull the same tag without {only[0]}, such as "
                    f"{facts.tag.replace(only[0], '')}; it has code for all supported GPUs"
                    if only
                    else f"rent a GPU with one of these compute capabilities: {known}",
                )
            )
    return found
