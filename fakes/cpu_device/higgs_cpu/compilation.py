"""Compilation as on a GPU, without CUDA graphs, if `HIGGS_CPU_COMPILE` asks for it.

`inductor`: vLLM's level 3, the model's graph split at its attention, and each piece compiled. It
needs a C++ compiler in the container; compiler.Dockerfile adds it, and the driver's library.
`dynamo`: the same graph in the same pieces, which PyTorch runs without Inductor.

Without it nothing is compiled (level 0), nor with the server's flag `--enforce-eager`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

INDUCTOR, DYNAMO = "inductor", "dynamo"


def configure(vllm_config: Any) -> None:
    """Set what is compiled; vLLM has chosen level 3 by then, and padding to CUDA graphs' sizes.

    Raises:
        ValueError: the variable has another value.
    """
    compiler = os.environ.get("HIGGS_CPU_COMPILE", "")
    if compiler not in ("", INDUCTOR, DYNAMO):
        raise ValueError(f"HIGGS_CPU_COMPILE: expected {INDUCTOR} or {DYNAMO}, got {compiler!r}")
    config, model = vllm_config.compilation_config, vllm_config.model_config
    if not compiler or (model and model.enforce_eager):
        config.level = 0
        if model:
            model.enforce_eager = True
        return
    config.use_inductor = compiler == INDUCTOR
    config.use_cudagraph = False
    config.cudagraph_num_of_warmups = 0


@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Replace what vLLM calls of CUDA to prepare and capture graphs: each size is only run."""
    from vllm.distributed import parallel_state
    from vllm.v1.worker import gpu_model_runner

    def capture(device: Any) -> Any:
        return contextlib.nullcontext()

    with (
        mock.patch("torch.cuda.graph_pool_handle", lambda: (0, 0)),
        mock.patch("torch.cuda.mem_get_info", lambda: (0, 0)),
        mock.patch.object(parallel_state, "graph_capture", capture),
        mock.patch.object(gpu_model_runner, "graph_capture", capture),
    ):
        yield


def hide_attention(vllm_config: Any) -> None:
    """Call each layer's attention as an operator, at which the graph is split."""
    for layer in vllm_config.compilation_config.static_forward_context.values():
        layer.use_direct_call = False
