"""The model's registration, without a process of its own."""

from __future__ import annotations

ARCHITECTURE = "HiggsAudioModel"


def prepare() -> None:
    """Register the model's class itself.

    vLLM looks at a class that is registered by name in a new process, lest CUDA be initialised
    before the engine's process starts. Here there is no CUDA, and a process takes ten seconds.
    """
    from vllm.model_executor.models.higgs_audio import HiggsAudioForConditionalGeneration
    from vllm.model_executor.models.registry import ModelRegistry, _RegisteredModel

    ModelRegistry.models[ARCHITECTURE] = _RegisteredModel.from_model_cls(
        HiggsAudioForConditionalGeneration
    )
