"""Makes random weights of the real model's size: runs inside the image, see benchmarks/gpu.py.

    python3 full_size_weights.py FOLDER REPOSITORY=COMMIT ...

The language model's shapes are in its configuration, and its values are made by the server
(--load-format dummy). The audio tokenizer is stored, at full width and with HuBERT base. Time and
memory do not depend on the values; the sound is noise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from higgs_cpu import checkpoint

SIZES = {
    "VOCABULARY": 128_256, "HIDDEN": 3072, "FFN": 8192, "LAYERS": 28, "HEADS": 24, "KV_HEADS": 8,
    "HEAD": 128,
}  # fmt: skip
"""Of bosonai/higgs-audio-v2-generation-3B-base: 5.77 billion parameters."""

CODEC: dict[str, Any] = {
    "n_filters": 32, "D": 256, "target_bandwidths": [0.5, 1, 1.5, 2], "ratios": [8, 5, 4, 2, 3],
    "sample_rate": 24_000, "bins": 1024, "n_q": 8, "codebook_dim": 64, "normalize": False,
    "causal": False, "semantic_techer": "hubert_base_general", "last_layer_semantic": True,
    "merge_mode": "concat", "downsample_mode": "step_down", "semantic_mode": "classic",
    "vq_scale": 1, "semantic_sample_rate": 16_000,
}  # fmt: skip


def semantic(folder: Path) -> None:
    """Write HuBERT base."""
    from transformers import HubertConfig, HubertModel

    HubertModel(HubertConfig()).half().save_pretrained(folder)


def tokenizer(folder: Path) -> None:
    """Write the audio tokenizer at full width, without what comes from HuBERT's own folder."""
    import torch
    from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer

    (folder / "config.json").write_text(json.dumps(CODEC))
    model = HiggsAudioTokenizer(**CODEC, device="cpu").eval()
    with torch.no_grad():
        for layer in model.quantizer.vq.layers:
            layer._codebook.embed.normal_()
            layer._codebook.inited.fill_(True)
    left_out = ("semantic_model.", "decoder_semantic.")
    values = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
        if not name.startswith(left_out)
    }
    torch.save(values, folder / "model.pth")


if __name__ == "__main__":
    for size, number in SIZES.items():
        setattr(checkpoint, size, number)
    checkpoint._weights = lambda config: iter(())  # noqa: ARG005 (its own signature)
    checkpoint._semantic, checkpoint._tokenizer = semantic, tokenizer
    checkpoint.make(Path(sys.argv[1]), dict(x.split("=", 1) for x in sys.argv[2:]))
