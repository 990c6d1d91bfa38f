"""What the engine knows of the audio tokenizer; the model itself is shown on the real server."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from higgs_patches.lib.weights import WeightsError
from higgs_patches.patches import audio_tokenizer


def test_the_engine_knows_the_dimensions_without_the_weights() -> None:
    """The values are those of bosonai/higgs-audio-v2-tokenizer: 25 frames a second."""
    config = {"ratios": [8, 5, 4, 2, 3], "sample_rate": 24_000, "n_q": 8, "D": 256, "vq_scale": 1}
    found = audio_tokenizer.TokenizerDimensions(config)
    assert (found.frame_rate, found.sample_rate, found.n_q) == (25, 24_000, 8)
    assert found.quantizer_dim == 1024


@pytest.mark.parametrize(("rate", "sound"), [(24_000, True), (16_000, False)])
def test_the_engine_never_encodes_sound(rate: int, sound: bool) -> None:
    class Samples:
        def any(self) -> bool:
            return sound

    config = {"ratios": [960], "sample_rate": 24_000, "n_q": 8, "D": 256, "vq_scale": 1}
    with pytest.raises(RuntimeError, match="takes codes only"):
        audio_tokenizer.TokenizerDimensions(config).encode(Samples(), rate)


@pytest.mark.parametrize("name", ["decoder_2.model.0.bias", "quantizer.vq.x", "fc_post2.weight"])
def test_a_missing_decoder_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=f"lacks 1 decoder weights, .* {name}"):
        audio_tokenizer._check_complete(["fc_post1.weight", name], Path("model.pth"))


@pytest.mark.parametrize("name", ["encoder.block.0.bias", "encoder_semantic.x", "fc_prior.bias"])
def test_a_missing_encoder_is_named(name: str, caplog: pytest.LogCaptureFixture) -> None:
    audio_tokenizer._check_complete([name], Path("model.pth"))
    assert name in caplog.text
    assert "voices will not be like their recordings" in caplog.text


def test_weights_that_only_training_needs_may_be_missing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    audio_tokenizer._check_complete(
        ["decoder_semantic.x", "fc_post1.bias", "semantic_model.y"], Path("x")
    )
    assert not caplog.records
