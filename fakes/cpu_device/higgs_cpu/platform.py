"""The platform: the properties of the device that vLLM asks for."""

from __future__ import annotations

from typing import Any

import torch
from vllm.platforms.interface import Platform, PlatformEnum

from higgs_cpu import compilation

MEMORY = 24 * 1024**3
"""Bytes of memory of the GPU that it replaces; vLLM derives defaults from it."""


class CpuPlatform(Platform):
    """A device of type `cpu` that runs V1's scheduler, model runner and sampler unchanged."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    dispatch_key = "CPU"

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return "cpu"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return MEMORY

    @classmethod
    def get_current_memory_usage(cls, device: Any = None) -> float:
        return 0.0

    @classmethod
    def is_async_output_supported(cls, enforce_eager: bool | None) -> bool:
        return False

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        return False

    @classmethod
    def supports_v1(cls, model_config: Any) -> bool:
        return True

    @classmethod
    def inference_mode(cls) -> Any:
        return torch.inference_mode()

    @classmethod
    def get_attn_backend_cls(cls, *args: Any, **kwargs: Any) -> str:
        return "higgs_cpu.attention.CpuAttentionBackend"

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """Name the worker, and disable CUDA graphs and, unless it is asked for, compilation."""
        vllm_config.parallel_config.worker_cls = "higgs_cpu.worker.CpuWorker"
        compilation.configure(vllm_config)
        if vllm_config.cache_config.block_size is None:
            vllm_config.cache_config.block_size = 16
