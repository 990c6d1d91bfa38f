"""The audio tokenizer on a CPU: its own code at a fraction of its width.

Its class fixes most of its sizes: 118 million weights, of which a CPU decodes a second of sound in
seconds. The two parts that work at the rate of samples are made narrow here; everything else of
the class runs as it is.
"""

from __future__ import annotations

from typing import Any

ENCODER_CHANNELS, DECODER_CHANNELS = 4, 64
"""Of the first and of the widest convolution; the real ones have 64 and 1024."""

SEED = 20250730
"""Of the weights that are not stored in the checkpoint."""


def prepare() -> None:
    """Make every audio tokenizer of this process narrow, seeded and on the CPU; once."""
    import torch
    from vllm.model_executor.models.higgs_audio_tokenizer import AudioTokenizer

    # oneDNN makes code for each new length of sound, which takes seconds each time; and threads
    # gain nothing at this size, cost a lot where cores are short, and do not survive a fork.
    torch.backends.mkldnn.set_flags(False)
    torch.set_num_threads(1)
    narrow()
    original = AudioTokenizer.__init__
    if getattr(original, "higgs_cpu", False):
        return

    def init(self: Any, model: str, device: str = "cpu") -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            original(self, model, device="cpu")

    init.higgs_cpu = True  # type: ignore[attr-defined]  # a mark
    AudioTokenizer.__init__ = init


def narrow() -> None:
    """Let the audio tokenizer's class build its encoder and decoder with fewer channels."""
    from boson_multimodal.audio_processing import higgs_audio_tokenizer
    from boson_multimodal.audio_processing.descriptaudiocodec.dac.model import dac

    class Encoder(dac.Encoder):
        def __init__(self, channels: int, strides: list[int], latent: int) -> None:
            super().__init__(ENCODER_CHANNELS, strides, latent)

    class Decoder(dac.Decoder):
        def __init__(self, latent: int, channels: int, strides: list[int]) -> None:
            super().__init__(latent, DECODER_CHANNELS, strides)

    higgs_audio_tokenizer.dac2 = type("NarrowCodec", (), {"Encoder": Encoder, "Decoder": Decoder})
