"""The limit of what the server's process allocates on the GPU."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from higgs_patches.lib import gpu_memory

GIB = 2**30


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[float]:
    """What PyTorch was told, on a device of the type that the test names."""
    told: list[float] = []
    torch: Any = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(
        mem_get_info=lambda: (20 * GIB, 24 * GIB), set_per_process_memory_fraction=told.append
    )
    platforms: Any = types.ModuleType("vllm.platforms")
    platforms.current_platform = types.SimpleNamespace(device_type=request.param)
    modules = {"torch": torch, "vllm": types.ModuleType("vllm"), "vllm.platforms": platforms}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return told


@pytest.mark.parametrize(
    ("fractions", "text", "told"),
    [("cuda", "3072", [0.125]), ("cuda", "0", []), ("cuda", "", []), ("cuda", "900000", [1.0]),
     ("cpu", "3072", [])],
    indirect=["fractions"],
)  # fmt: skip
def test_pytorch_is_told_the_share(
    fractions: list[float], text: str, told: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGS_CODEC_MEMORY_MIB", text)
    gpu_memory.limit()
    assert fractions == told
