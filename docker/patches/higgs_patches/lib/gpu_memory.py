"""Limit what this process allocates on the GPU, which the engine's process shares."""

from __future__ import annotations

import logging

from higgs_patches.patch_settings import CODEC_MEMORY_MIB

log = logging.getLogger("vllm.higgs_patches.gpu_memory")


def limit() -> None:
    """Let PyTorch refuse to allocate more than HIGGS_CODEC_MEMORY_MIB in this process.

    The entrypoint sets it from the GPU's memory (`higgs_runtime.gpu_memory`). What does not fit is
    an OutOfMemoryError of one request here, instead of the end of the engine.
    """
    from vllm.platforms import current_platform

    allowed = CODEC_MEMORY_MIB.read()
    if not allowed or current_platform.device_type != "cuda":
        return
    import torch

    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(allowed * 2**20 / total, 1.0))
    log.info("The audio tokenizer may allocate %d MiB of the GPU's memory", allowed)
