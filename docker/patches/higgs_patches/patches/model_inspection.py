"""Inspect the model's class in the process that loads it, without another process.

vLLM starts a Python process at its start that imports the model's module only to see what the model
can do, so that the server's own process keeps off CUDA until then. Here that process has put the
audio tokenizer on the GPU already and imports the same module a moment later. The extra process
costs one import of PyTorch and transformers: ten seconds on a warm disk, more on a cold one.
"""

from __future__ import annotations

from typing import Any

PATCH = {
    "title": "Inspect the model without an extra process that imports PyTorch",
    "issues": [],
    "why": (
        "vLLM finds out in a subprocess what a model supports, to keep CUDA out of the server's "
        "process. This server uses CUDA there before that, so the subprocess only costs time."
    ),
    "obsolete_when": "inspect_model_cls has a cache on disk, or works without importing the model.",
    "targets": [
        {
            "file": "vllm/model_executor/models/registry.py",
            "name": "_LazyRegisteredModel.inspect_model_cls",
            "how": "replace",
            "with": "inspect_model_cls",
            "sha256": "2a221e79309a05a006a93ced28cee3c386f38bf09f810aaf42f1aba24824cfd9",
        },
    ],
}


def inspect_model_cls(self: Any) -> Any:
    """Return what the model supports (method of _LazyRegisteredModel)."""
    from vllm.model_executor.models.registry import _ModelInfo

    return _ModelInfo.from_model_cls(self.load_model_cls())
