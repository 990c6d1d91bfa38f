"""What goes where in a GPU's memory: the engine's process, the server's, and what both leave free.

The engine takes its share for weights and KV cache at the start, and what the server's process has
by then counts towards it. Later the audio tokenizer in the server's process grows: by each longer
recording that it encodes and each larger batch that it decodes. Without a limit it could take what
the engine needs for its next prompt, and the engine's end is the end of all requests. With one, a
recording that does not fit is refused and nothing else happens.
"""

from __future__ import annotations

from typing import NamedTuple

from higgs_runtime.gpu import GpuDefaults
from higgs_runtime.nvml import GpuMachine

VISIBLE = 0.98
"""Share of the memory that NVML reports which CUDA can allocate: 22,580 of 23,034 MiB on an L4."""
WEIGHTS = 11_010
"""MiB: 5.77 billion parameters in bfloat16."""
SAMPLER = 4.68
"""MiB for each request at once: sorted logits over a vocabulary of 128,256."""
CONTEXT = 500
"""MiB of a CUDA context with the kernels that are loaded into it; each process has one."""
ACTIVATIONS = 300
"""MiB of a prompt's largest step in the engine."""
CUDA_GRAPHS = 1024
"""MiB of the engine's captured graphs, which are outside its share."""
CODEC = 768
"""MiB of the audio tokenizer's weights, in float32."""
DECODED_FRAMES = 1024
"""Frames that the audio tokenizer decodes in one call, over all answers in a batch (250), with room
for what it keeps between the chunks of up to 256 answers (1.4 MiB each)."""
DECODING = 0.55
"""MiB for each of them: the largest sum of live tensors, as is the next."""
ENCODING = 29.3
"""MiB for each second of a recording that is encoded; recordings are encoded one at a time."""
WORKSPACE = 256
"""MiB that cuDNN, cuBLAS and fragments take beside that."""
TOKEN = 112 / 1024
"""MiB of KV cache for a token: 28 layers, 8 heads of 128 numbers, keys and values."""


class MemoryPlan(NamedTuple):
    """Memory of a GPU, in MiB.

    Attributes:
        engine: the engine's share, including both contexts and the audio tokenizer's weights.
        kv_cache: what is left of it for keys and values.
        codec: most that the audio tokenizer in the server's process may allocate.
        free: left beside all of that and the CUDA graphs; negative if recordings of the longest
            allowed length do not fit.
    """

    engine: int
    kv_cache: int
    codec: int
    free: int

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return int(self.kv_cache / TOKEN)


def codec_growth(reference_seconds: float) -> float:
    """Return the MiB that the audio tokenizer needs beside its weights."""
    return DECODED_FRAMES * DECODING + reference_seconds * ENCODING + WORKSPACE


def plan(machine: GpuMachine | None, limits: GpuDefaults) -> MemoryPlan | None:
    """Return what goes where on the first GPU; None if its memory is unknown.

    Args:
        machine: what NVML reports.
        limits: in force, see `command.effective`.
    """
    total = machine.gpus[0].total if machine else None
    if not total:
        return None
    visible = total * VISIBLE
    engine = visible * limits.utilization
    cache = engine - WEIGHTS - SAMPLER * limits.max_num_seqs - 2 * CONTEXT - CODEC - ACTIVATIONS
    room = visible - engine - CUDA_GRAPHS
    growth = codec_growth(limits.reference_seconds)
    # Decoding has to work in any case: without it there is no speech at all.
    allowed = max(min(growth, room), codec_growth(0))
    return MemoryPlan(round(engine), max(round(cache), 0), round(CODEC + allowed),
                      round(room - growth))  # fmt: skip


def describe(planned: MemoryPlan | None, limits: GpuDefaults, *, cascade: bool) -> str:
    """Return one line for the log: the limits in force, and what goes where."""
    line = (
        f"limits: {limits.max_num_seqs} requests at once, {limits.max_model_len} tokens each, "
        f"{limits.utilization:.0%} of the GPU's memory, references up to "
        f"{limits.reference_seconds:g} s, cascade attention {'on' if cascade else 'off'}"
    )
    if planned is None:
        return line
    return (
        f"{line}; GiB of memory: engine {_gib(planned.engine)} (about {_gib(planned.kv_cache)} of "
        f"it KV cache for {planned.kv_tokens:,} tokens), CUDA graphs about {_gib(CUDA_GRAPHS)}, "
        f"audio tokenizer at most {_gib(planned.codec)}, free {_gib(max(planned.free, 0))}"
    )


def shortage(planned: MemoryPlan, limits: GpuDefaults) -> str:
    """Return a warning for limits that leave too little beside the engine."""
    return (
        f"recordings of {limits.reference_seconds:g} s need {_gib(-planned.free)} GiB more GPU "
        "memory than the engine leaves: long ones are answered with 503; "
        "hint: lower HIGGS_GPU_MEMORY_UTILIZATION or HIGGS_MAX_REFERENCE_SECONDS"
    )


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f}"
