"""Build and load no Whisper encoder where recordings are given to the model as codes.

The model's class builds the encoder of its predecessor, which understood sound by Whisper, from the
configuration's default of 32 layers: 637 million parameters. With a tokenizer of codes nothing
calls it, and the published weights do not contain it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

PATCH = {
    "title": "Leave out the Whisper encoder that nothing uses",
    "issues": ["https://github.com/boson-ai/higgs-audio-vllm/issues/23"],
    "why": (
        "1.19 GiB of uninitialised weights stay on the GPU: 11,000 tokens of KV cache on a card "
        "of 24 GB."
    ),
    "obsolete_when": "HiggsAudioEncoder is built only if use_whisper_tokenizer is true.",
    "targets": [
        {
            "file": "vllm/model_executor/models/higgs_audio.py",
            "name": "HiggsAudioEncoder.__init__",
            "how": "wrap",
            "with": "empty_unless_used",
            "sha256": "15c8446c673b59e711d445c9fc8bc359cac57866b6279e23696ecbfa842e2c93",
        },
        {
            "file": "vllm/model_executor/models/higgs_audio.py",
            "name": "HiggsAudioForConditionalGeneration.load_weights",
            "how": "wrap",
            "with": "without_unused",
            "sha256": "05d2540b59bcf4a4b0a55f2f38ebf4b74c286c9b88e5e569acc7d030e23d8a62",
        },
    ],
}

WHISPER = "openai/whisper-large-v3-turbo"
"""The tokenizer with which the encoder is used, and the fork's default."""


def is_used() -> bool:
    """Return whether recordings go through the encoder, as the fork decides it."""
    return os.environ.get("HIGGS_AUDIO_TOKENIZER", WHISPER) == WHISPER


def empty_unless_used(original: Callable[..., None]) -> Callable[..., None]:
    """Build a module without parameters unless the encoder is used (HiggsAudioEncoder)."""

    @functools.wraps(original)
    def __init__(self: Any, config: Any) -> None:
        if is_used():
            original(self, config)
        else:
            import torch

            torch.nn.Module.__init__(self)

    return __init__


def without_unused(original: Callable[..., Any]) -> Callable[..., Any]:
    """Pass over weights of an encoder that was not built, in files that have them."""

    @functools.wraps(original)
    def load_weights(self: Any, weights: Iterable[tuple[str, Any]]) -> Any:
        if not is_used():
            weights = (x for x in weights if "audio_tower" not in x[0])
        return original(self, weights)

    return load_weights
