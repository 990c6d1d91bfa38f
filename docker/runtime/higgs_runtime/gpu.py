"""Checks whether the GPUs of this machine are large enough, and which limits suit them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from higgs_runtime import device_code
from higgs_runtime.errors import GpuTooSmallError, SettingError, StartError, TensorParallelError
from higgs_runtime.nvml import Gpu, GpuMachine

SMALLEST_MIB = 22_000
"""A 24 GB card has at least 22,500 MiB. The weights take 12 GiB, the audio tokenizers and their
activations about 4, and the rest holds the KV cache."""
FREE_MIB = 21_000
"""How much of it must be free: a display and the driver may take a little."""
LARGE_MIB = 38_000
"""A 40 GB card has at least 40,300 MiB."""
TENSOR_PARALLEL_SIZES = (1, 2)
"""Numbers of GPUs over which the server is known to run."""


class GpuDefaults(NamedTuple):
    """Defaults of the server for a GPU.

    Attributes:
        memory: smallest memory, in MiB.
        utilization: share of the memory that the engine uses; see `gpu_memory` for the rest.
        max_model_len: longest request with its answer, in tokens.
        max_num_seqs: requests that run at once. More would be preempted, since their KV cache does
            not fit, and the sampler reserves 4.6 MB for each: 4.7 GiB for the server's own 1024.
        reference_seconds: longest reference recording.
    """

    memory: int
    utilization: float
    max_model_len: int
    max_num_seqs: int
    reference_seconds: float


DEFAULTS = (
    GpuDefaults(0, 0.82, 16_384, 64, 30),
    GpuDefaults(30_000, 0.85, 16_384, 64, 30),
    GpuDefaults(LARGE_MIB, 0.90, 16_384, 128, 60),
    GpuDefaults(78_000, 0.90, 16_384, 256, 60),
)
"""By memory, ascending. A card has a little more than the thresholds of 32, 40 and 80 GB."""


def check(machine: GpuMachine, tensor_parallel: int) -> list[StartError]:
    """Return why the server would not run on this machine; an empty list if it would.

    Args:
        machine: what NVML reports.
        tensor_parallel: number of GPUs over which the model is spread.

    Raises:
        SettingError: the container has fewer GPUs than that.
    """
    if tensor_parallel > len(machine.gpus):
        raise SettingError(
            f"HIGGS_TENSOR_PARALLEL_SIZE is {tensor_parallel}, but the container sees "
            f"{len(machine.gpus)} GPU{'s' if len(machine.gpus) > 1 else ''}",
            f"set it to at most {len(machine.gpus)}, or give the container more GPUs",
        )
    found: list[StartError] = []
    for gpu in machine.gpus[:tensor_parallel]:
        found += _check_one(gpu)
    if tensor_parallel not in TENSOR_PARALLEL_SIZES:
        found.append(
            TensorParallelError(
                f"tensor parallelism over {tensor_parallel} GPUs is not known to work: with 4 the "
                "server crashes (boson-ai/higgs-audio-vllm#12)",
                "start one container for each GPU, or set HIGGS_TENSOR_PARALLEL_SIZE=1",
            )
        )
    return found


def _check_one(gpu: Gpu) -> list[StartError]:
    if gpu.total is not None and gpu.total < SMALLEST_MIB:
        return [
            GpuTooSmallError(
                f"{gpu.name} has {_gib(gpu.total)} GiB of memory, the model needs "
                f"{_gib(SMALLEST_MIB)}",
                "rent a GPU with 24 GB or more",
            )
        ]
    if gpu.free is not None and gpu.free < FREE_MIB:
        return [
            GpuTooSmallError(
                f"{gpu.name} has {_gib(gpu.free)} GiB of memory free, the model needs "
                f"{_gib(FREE_MIB)}",
                "stop other programs on the GPU (nvidia-smi lists them), or choose another one "
                "with CUDA_VISIBLE_DEVICES",
            )
        ]
    return []


def defaults(machine: GpuMachine | None) -> GpuDefaults:
    """Return the defaults for the first GPU; the smallest if its memory is unknown."""
    total = (machine.gpus[0].total if machine else None) or 0
    return [x for x in DEFAULTS if x.memory <= total][-1]


def merges_attention(machine: GpuMachine | None, environment: Mapping[str, str]) -> bool:
    """Return whether cascade attention is correct on these GPUs: only with FlashAttention 3.

    FlashAttention 2, vLLM's choice on all but Hopper, merges the attention of a shared prefix and
    of the rest with wrong weights in this version (vllm-project/flash-attention#87): a voice that
    several requests share would drift.
    """
    gpus = machine.gpus if machine and not device_code.chooses_2(environment) else ()
    return bool(gpus) and all(gpu.capability is not None and gpu.capability[0] == 9 for gpu in gpus)


def describe(machine: GpuMachine, tensor_parallel: int) -> str:
    """Return one line for the log."""
    first = machine.gpus[0]
    memory = f", {_gib(first.total)} GiB" if first.total else ""
    line = f"{first.name}{memory}, driver {machine.driver}"
    unused = len(machine.gpus) - tensor_parallel
    if unused > 0:
        line += (
            f"; {unused} more GPU{'s are' if unused > 1 else ' is'} not used: one container for "
            "each GPU has a higher throughput than one container with several"
        )
    return line


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f}"
