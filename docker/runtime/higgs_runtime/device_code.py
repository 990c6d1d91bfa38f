"""Checks whether the image has code for the GPUs, and whether the driver can run it.

The image with PyTorch 2.6 has a variant, `cuda12.8`, with PyTorch 2.8 and code for Blackwell, too.
Machine code runs with every driver for CUDA 12.4 or later. Of FlashAttention 2 the variant has none
for Hopper and Blackwell: there the driver compiles it, which needs a newer one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from higgs_runtime.errors import DriverTooOldError, StartError, UnsupportedGpuError
from higgs_runtime.image import ImageFacts
from higgs_runtime.nvml import Gpu, GpuMachine

VARIANT = "cuda12.8"
"""The variant of the image for GPUs up to Blackwell."""
AMPERE, ADA, HOPPER = (8, 0), (8, 9), (9, 0)
"""Compute capabilities; the model's bfloat16 needs Ampere."""
BLACKWELL = ((10, 0), (12, 0))
"""Those that the variant has code for."""
UNKNOWN_TO_PTXAS = {(10, 3): "sm_103a", (12, 1): "sm_121a"}
"""Those for which Triton 3.4 cannot compile: its ptxas, of CUDA 12.8, does not know the name."""
CUDA = "12.4"
"""The oldest CUDA whose drivers run the image's machine code."""
DRIVERS = {"12.4": "550.54", "12.8": "570.26"}
"""The first driver for a version of CUDA."""
FLASH_ATTENTION = "VLLM_FLASH_ATTN_VERSION"
"""Variable with which a user overrides vLLM's choice: 3 on Hopper, else 2."""
FLAG = "--quantization"
WARMUP_SECONDS, COMPILING_SECONDS = 180, 600
"""Longest warm-up. Compiling FlashAttention 2 for one GPU takes ptxas 100 s of one core."""

_OTHERS = (
    "rent an Ampere, Ada or Hopper GPU with 24 GB or more, such as RTX 4090, L40S, A100 or H100"
)


def check(
    machine: GpuMachine, tensor_parallel: int, facts: ImageFacts, environment: Mapping[str, str]
) -> list[StartError]:
    """Return why the image's code would not run on this machine; an empty list if it would.

    Args:
        machine: what NVML reports.
        tensor_parallel: number of GPUs over which the model is spread.
        facts: of this image.
        environment: the container's variables.
    """
    used = machine.gpus[:tensor_parallel]
    found: list[StartError] = []
    compiling = [gpu for gpu in used if compiles_attention(gpu, facts, environment)]
    needed = facts.cuda if compiling else CUDA
    if machine.cuda < _number(needed):
        what = f" to compile FlashAttention 2 for {compiling[0].name}" if compiling else ""
        chosen = compiling and not any(compiles_attention(gpu, facts, {}) for gpu in compiling)
        unset = f", or unset {FLASH_ATTENTION}" if chosen else ""
        found.append(
            DriverTooOldError(
                f"driver {machine.driver} supports CUDA up to {machine.cuda // 1000}."
                f"{machine.cuda % 1000 // 10}, the image needs {needed}{what}",
                f"rent a machine with driver {DRIVERS[needed]} or later (RunPod: minCudaVersion "
                f"{needed}), or update the host's driver{unset}",
            )
        )
    return found + [error for gpu in used if (error := _refusal(gpu, facts))]


def check_quantization(
    machine: GpuMachine, tensor_parallel: int, facts: ImageFacts, method: str, source: str = FLAG
) -> list[StartError]:
    """Return an error for each used GPU on which this image cannot compute with fp8.

    GPUs before Ada have no fp8 of their own. vLLM 0.8.3 calls a kernel in place of it that the
    libraries of vLLM 0.10.2, which the variant has, lack.

    Args:
        machine: what NVML reports.
        tensor_parallel: number of GPUs over which the model is spread.
        facts: of this image.
        method: such as fp8; empty: the weights are not quantized.
        source: says so.
    """
    if facts.variant != VARIANT or method not in ("fp8", "fbgemm_fp8"):
        return []
    return [
        UnsupportedGpuError(
            f"{source} {method} cannot be used on {gpu.name}: the {VARIANT} variant of the image "
            "has no fp8 kernel for Ampere (fp8_marlin_gemm)",
            f"{'leave the flag out' if source == FLAG else 'use weights that are not quantized'}, "
            "or pull the image that is not a variant, such as the tag custom",
        )
        for gpu in machine.gpus[:tensor_parallel]
        if gpu.capability is not None and gpu.capability < ADA
    ]


def compiles_attention(gpu: Gpu, facts: ImageFacts, environment: Mapping[str, str]) -> bool:
    """Return whether the driver has to compile FlashAttention 2 at its first call on a GPU."""
    if facts.variant != VARIANT or gpu.capability is None:
        return False
    return gpu.capability >= (HOPPER if chooses_2(environment) else BLACKWELL[0])


def chooses_2(environment: Mapping[str, str]) -> bool:
    """Return whether the user has chosen FlashAttention 2, which is not vLLM's choice on Hopper."""
    return environment.get(FLASH_ATTENTION, "").strip() == "2"


def warmup_seconds(
    machine: GpuMachine | None, facts: ImageFacts, environment: Mapping[str, str]
) -> int:
    """Return the longest warm-up, unless the user has set it."""
    gpus = machine.gpus if machine else ()
    compiling = any(compiles_attention(gpu, facts, environment) for gpu in gpus)
    return COMPILING_SECONDS if compiling else WARMUP_SECONDS


def _refusal(gpu: Gpu, facts: ImageFacts) -> StartError | None:
    if gpu.capability is None:
        return None
    capability = "{}.{}".format(*gpu.capability)
    if capability in facts.gpus:
        return None
    hint = _OTHERS
    if gpu.capability < AMPERE:
        reason = "the model needs bfloat16, which requires Ampere (sm_80) or later"
    elif gpu.capability in UNKNOWN_TO_PTXAS:
        reason = (
            f"no variant of the image can compile for {UNKNOWN_TO_PTXAS[gpu.capability]}, which "
            "ptxas 12.8 of Triton 3.4 does not know"
        )
    elif gpu.capability in BLACKWELL and facts.variant != VARIANT:
        reason = "PyTorch 2.6, which this image has, has no kernels for Blackwell"
        hint = f"pull the {VARIANT} variant of the image, such as the tag custom-{VARIANT}"
    elif gpu.capability > HOPPER and gpu.capability not in BLACKWELL:
        reason = "no variant of the image has kernels for it"
    else:
        return _without_code(gpu.name, capability, facts) if facts.gpus else None
    name = "sm_{}{}".format(*gpu.capability)
    return UnsupportedGpuError(f"{gpu.name} ({name}) is not supported: {reason}", hint)


def _without_code(name: str, capability: str, facts: ImageFacts) -> StartError:
    """Return the error for a GPU that the image could have code for, but was built without."""
    known = ", ".join(sorted(facts.gpus, key=_number))
    only = re.search(r"(-sm\d+)+", facts.tag)
    return UnsupportedGpuError(
        f"{name} has compute capability {capability}, and this image has code for {known} only",
        f"pull the same tag without {only[0]}, such as {facts.tag.replace(only[0], '')}; it has "
        "code for all supported GPUs"
        if only
        else f"rent a GPU with one of these compute capabilities: {known}",
    )


def _number(version: str) -> int:
    """Return a version such as 12.4 in NVML's notation."""
    major, minor = version.split(".")
    return 1000 * int(major) + 10 * int(minor)
