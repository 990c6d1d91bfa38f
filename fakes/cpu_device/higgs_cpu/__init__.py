"""A CPU in place of the GPU: the whole speech server runs, slowly, on tiny random weights.

An out-of-tree platform plugin of vLLM. It is active wherever it can be imported, so it is mounted
into a container and never part of an image. See the README beside this package.
"""

from __future__ import annotations

import os
import sys

SETTINGS = {
    "VLLM_USE_V1": "1",  # only CUDA gets the V1 engine by itself
    "VLLM_WORKER_MULTIPROC_METHOD": "fork",  # the engine need not import everything again
    "GLOO_SOCKET_IFNAME": "lo",
    "VLLM_HOST_IP": "127.0.0.1",
}
"""Environment that the device needs, unless it is set already."""


def platform() -> str:
    """Entry point `vllm.platform_plugins`: name the platform's class."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    return "higgs_cpu.platform.CpuPlatform"


def prepare() -> None:
    """Entry point `vllm.general_plugins`: called in each process before the engine is set up."""
    from higgs_cpu import codec, missing, models

    # Sleep mode's allocator is linked against NVIDIA's driver; without it vLLM goes on.
    sys.modules.setdefault("vllm.cumem_allocator", None)  # type: ignore[arg-type]  # absent
    codec.prepare()
    missing.prepare()
    models.prepare()
