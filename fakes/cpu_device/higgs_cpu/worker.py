"""The fork's GPU worker and model runner without their calls to CUDA."""

from __future__ import annotations

import types
from typing import Any
from unittest import mock

import torch
from vllm.distributed import (
    ensure_model_parallel_initialized,
    init_distributed_environment,
    set_custom_all_reduce,
)
from vllm.model_executor import set_random_seed
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from higgs_cpu import compilation, speech, steps

KV_CACHE = 64 * 1024**2
"""Bytes for keys and values: some 60,000 tokens of the tiny model."""


class CpuModelRunner(GPUModelRunner):
    """The GPU model runner on tensors of a CPU."""

    def __init__(self, vllm_config: Any, device: torch.device) -> None:
        properties = types.SimpleNamespace(multi_processor_count=1, name="cpu")
        with mock.patch.object(torch.cuda, "get_device_properties", lambda _: properties):
            super().__init__(vllm_config, device)

    def load_model(self) -> None:
        with compilation.without_graphs():
            super().load_model()
        if self.use_cuda_graph:  # as a GPU would: the model is compiled
            compilation.hide_attention(self.vllm_config)
            steps.compare(self.model)
        speech.end_in_time(self)

    def capture_model(self) -> None:
        with compilation.without_graphs():
            super().capture_model()

    def profile_run(self) -> None:
        with mock.patch.object(torch.cuda, "synchronize"):
            super().profile_run()

    def _update_states(self, scheduler_output: Any) -> None:
        super()._update_states(scheduler_output)
        for row, generator in self.input_batch.generators.items():
            if not isinstance(generator, RewindableGenerator):
                generator = RewindableGenerator(generator)
                self.input_batch.generators[row] = generator
                self.requests[self.input_batch.req_ids[row]].generator = generator
            generator.mark()


class RewindableGenerator(torch.Generator):
    """A CPU generator that can take back one step, as the runner asks of CUDA's by an offset.

    The runner does so for a request whose prompt is not complete: its sample does not count.
    """

    def __new__(cls, generator: torch.Generator) -> RewindableGenerator:
        return super().__new__(cls, device="cpu")

    def __init__(self, generator: torch.Generator) -> None:
        self.set_state(generator.get_state())

    def mark(self) -> None:
        """Remember the state before a step."""
        self.before = self.get_state()

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> None:
        self.set_state(self.before)


class CpuWorker(Worker):
    """The GPU worker without CUDA."""

    def init_device(self) -> None:
        self.device = torch.device("cpu")
        set_custom_all_reduce(False)
        config = self.parallel_config
        init_distributed_environment(
            config.world_size, self.rank, self.distributed_init_method, self.local_rank, "gloo"
        )
        ensure_model_parallel_initialized(
            config.tensor_parallel_size, config.pipeline_parallel_size
        )
        set_random_seed(self.model_config.seed)
        self.model_runner = CpuModelRunner(self.vllm_config, self.device)

    @torch.inference_mode()
    def determine_available_memory(self) -> int:
        """Run the model once at its largest, as on a GPU, and grant a fixed cache."""
        self.model_runner.profile_run()
        return KV_CACHE
