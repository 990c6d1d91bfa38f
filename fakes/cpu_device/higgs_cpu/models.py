"""Register the model without a separate process."""

from __future__ import annotations

ARCHITECTURE = "HiggsAudioModel"


def prepare() -> None:
    """Register the model's class itself.

    vLLM inspects a class that is registered by name in a new process, so that CUDA is not
    initialised before the engine's process starts. A CPU has no CUDA, and a process takes 10 s.
    """
    from vllm.model_executor.models.higgs_audio import HiggsAudioForConditionalGeneration
    from vllm.model_executor.models.registry import ModelRegistry, _RegisteredModel

    ModelRegistry.models[ARCHITECTURE] = _RegisteredModel.from_model_cls(
        HiggsAudioForConditionalGeneration
    )
