"""The Whisper encoder is built and loaded only where it is used."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from higgs_patches.patches import audio_tower

NAMES = ["audio_tower.conv1.weight", "layers.0.mlp.x", "audio_encoder_proj.linear.weight"]


class Encoder:
    initialised = False

    @audio_tower.empty_unless_used
    def __init__(self, config: Any) -> None:
        self.layers = [1, 2]


class Model:
    @audio_tower.without_unused
    def load_weights(self, weights: Any) -> list[str]:
        return [name for name, _ in weights]


@pytest.mark.parametrize(("tokenizer", "used"), [(None, True), (audio_tower.WHISPER, True),
                                                 ("/weights/tokenizer", False)])  # fmt: skip
def test_the_encoder_follows_the_tokenizer(
    tokenizer: str | None, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch: Any = types.ModuleType("torch")
    made: list[Any] = []
    torch.nn = types.SimpleNamespace(Module=types.SimpleNamespace(__init__=made.append))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.delenv("HIGGS_AUDIO_TOKENIZER", raising=False)
    if tokenizer:
        monkeypatch.setenv("HIGGS_AUDIO_TOKENIZER", tokenizer)
    encoder = Encoder(None)
    assert hasattr(encoder, "layers") == used
    assert made == ([] if used else [encoder])
    loaded = Model().load_weights((name, None) for name in NAMES)
    assert loaded == (NAMES if used else NAMES[1:])
