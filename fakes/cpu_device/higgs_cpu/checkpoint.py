"""Make tiny random weights: `python3 -m higgs_cpu.checkpoint FOLDER`.

FOLDER becomes a cache of the Hugging Face hub that holds the three repositories that the server
loads, under their own names and revisions: a server that is pointed at it (HF_HUB_CACHE, with
HF_HUB_OFFLINE=1) starts with the flags it has on a GPU. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED = 20250730
DONE = "higgs-cpu.json"
"""Written last: a folder without it is not whole."""

GENERATION = "bosonai/higgs-audio-v2-generation-3B-base"
TOKENIZER = "bosonai/higgs-audio-v2-tokenizer"
SEMANTIC = "bosonai/hubert_base"
REVISION = 40 * "0"
"""Of a repository that no revision was given for."""

SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|audio_out_bos|>",
    "<|AUDIO|>",
    "<|AUDIO_OUT|>",
]
VOCABULARY = 512
HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD = 128, 256, 2, 4, 2, 32
CODEBOOKS, CODES = 8, 1024
LOUDNESS = 0.08
"""Root mean square of the sound, of a full scale of 1; speech is about as loud."""


def make(folder: Path, revisions: dict[str, str]) -> None:
    """Make the cache, unless it is there.

    Args:
        folder: receives one folder for each repository, as the hub's own cache has them.
        revisions: of repositories, where not `REVISION`.
    """
    wanted = {"seed": SEED, "revisions": revisions}
    done = folder / DONE
    if done.is_file() and json.loads(done.read_text()) == wanted:
        return
    os.environ.update(HF_HUB_CACHE=str(folder), HF_HUB_OFFLINE="1")  # read on import
    import torch

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    semantic = _repository(folder, SEMANTIC, revisions)
    _semantic(semantic)
    link = folder / "semantic-model"  # the same path whatever the revision
    link.unlink(missing_ok=True)
    link.symlink_to(semantic.relative_to(folder))
    os.environ["HIGGS_SEMANTIC_MODEL_PATH"] = str(link)  # read by a patched tokenizer
    _generation(_repository(folder, GENERATION, revisions))
    _tokenizer(_repository(folder, TOKENIZER, revisions))
    done.write_text(json.dumps(wanted))


def _repository(folder: Path, name: str, revisions: dict[str, str]) -> Path:
    revision = revisions.get(name, REVISION)
    repository = folder / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(revision)
    return snapshot


def _generation(folder: Path) -> None:
    """The text model: a tokenizer with a token for each byte, and two layers of 128 numbers."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in SPECIAL])
    begin, end = SPECIAL[:2]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=begin, eos_token=end, pad_token=end
    )
    tokenizer.save_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    config = _config(ids)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    weights = {
        name: (torch.ones(shape) if name.endswith("norm.weight") else torch.randn(shape) * scale)
        for name, shape, scale in _weights(config)
    }
    save_file({k: v.to(torch.bfloat16) for k, v in weights.items()}, folder / "model.safetensors")


def _config(ids: dict[str, int]) -> dict[str, Any]:
    begin, end = ids["<|begin_of_text|>"], ids["<|end_of_text|>"]
    return {
        "architectures": ["HiggsAudioModel"],
        "model_type": "higgs_audio",
        "torch_dtype": "bfloat16",
        "text_config": {
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "bos_token_id": begin,
            "eos_token_id": end,
            "torch_dtype": "bfloat16",
        },
        "audio_encoder_config": {
            "model_type": "higgs_audio_encoder",
            "num_mel_bins": 8,
            "encoder_layers": 2,
            "encoder_attention_heads": 1,
            "encoder_ffn_dim": 8,
            "d_model": 8,
            "max_source_positions": 8,
            "pad_token_id": end,
        },
        "audio_adapter_type": "dual_ffn_fast_forward",
        "audio_dual_ffn_layers": list(range(LAYERS)),
        "audio_decoder_proj_num_layers": 0,
        "encode_audio_in_tokens": True,
        "use_delay_pattern": True,
        "skip_audio_tower": True,
        "audio_num_codebooks": CODEBOOKS,
        "audio_codebook_size": CODES,
        "audio_stream_bos_id": CODES,
        "audio_stream_eos_id": CODES + 1,
        "audio_eos_token_id": ids["<|audio_eos|>"],
        "audio_out_bos_token_id": ids["<|audio_out_bos|>"],
        "audio_in_token_idx": ids["<|AUDIO|>"],
        "audio_out_token_idx": ids["<|AUDIO_OUT|>"],
        "pad_token_id": end,
        # For higgs_cpu.speech.
        "higgs_cpu": {
            "header": ids["<|start_header_id|>"],
            "header_end": ids["<|end_header_id|>"],
            "turn_end": ids["<|eot_id|>"],
            "end": end,
        },
    }


def _weights(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """Yield name, shape and standard deviation of every weight, as the real checkpoint has them."""
    encoder = config["audio_encoder_config"]
    mel, width, places = (
        encoder["num_mel_bins"],
        encoder["d_model"],
        encoder["max_source_positions"],
    )
    codes = CODEBOOKS * (CODES + 2)
    yield "embed_tokens.weight", (VOCABULARY, HIDDEN), 1.0
    yield "audio_codebook_embeddings.weight", (codes, HIDDEN), 1.0
    yield "audio_decoder_proj.text_lm_head.weight", (VOCABULARY, HIDDEN), HIDDEN**-0.5
    yield "audio_decoder_proj.audio_lm_head.weight", (codes, HIDDEN), HIDDEN**-0.5
    yield "norm.weight", (HIDDEN,), 1.0
    for layer in range(LAYERS):
        at = f"layers.{layer}"
        yield f"{at}.self_attn.q_proj.weight", (HEADS * HEAD, HIDDEN), HIDDEN**-0.5
        yield f"{at}.self_attn.k_proj.weight", (KV_HEADS * HEAD, HIDDEN), HIDDEN**-0.5
        yield f"{at}.self_attn.v_proj.weight", (KV_HEADS * HEAD, HIDDEN), HIDDEN**-0.5
        yield f"{at}.self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD), (HEADS * HEAD) ** -0.5
        for ffn in ("mlp", "audio_mlp"):
            yield f"{at}.{ffn}.gate_proj.weight", (FFN, HIDDEN), HIDDEN**-0.5
            yield f"{at}.{ffn}.up_proj.weight", (FFN, HIDDEN), HIDDEN**-0.5
            yield f"{at}.{ffn}.down_proj.weight", (HIDDEN, FFN), FFN**-0.5
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{norm}.weight", (HIDDEN,), 1.0
            yield f"{at}.audio_{norm}.weight", (HIDDEN,), 1.0
    yield "audio_encoder_proj.linear.weight", (HIDDEN, width), width**-0.5
    yield "audio_encoder_proj.linear.bias", (HIDDEN,), 0.0
    yield "audio_tower.conv1.weight", (width, mel, 3), mel**-0.5
    yield "audio_tower.conv1.bias", (width,), 0.0
    yield "audio_tower.conv2.weight", (width, width, 3), width**-0.5
    yield "audio_tower.conv2.bias", (width,), 0.0
    yield "audio_tower.embed_positions.weight", (places, width), 1.0
    yield "audio_tower.layer_norm.weight", (width,), 1.0
    yield "audio_tower.layer_norm.bias", (width,), 0.0


def _semantic(folder: Path) -> None:
    """HuBERT with one layer; the tokenizer's class fixes its 768 numbers for a frame."""
    from transformers import HubertConfig, HubertModel

    HubertModel(
        HubertConfig(
            hidden_size=768,
            num_hidden_layers=1,
            num_attention_heads=12,
            intermediate_size=64,
            conv_dim=(16,) * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=16,
        )
    ).half().save_pretrained(folder)


def _tokenizer(folder: Path) -> None:
    """The audio tokenizer's own class, narrow (see higgs_cpu.codec) and about as loud as speech."""
    import torch

    from higgs_cpu import codec

    codec.narrow()
    from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer

    config = {
        "n_filters": 32,
        "D": 64,
        "target_bandwidths": [0.5, 1, 1.5, 2],
        "ratios": [8, 5, 4, 2, 3],
        "sample_rate": 24000,
        "bins": CODES,
        "n_q": CODEBOOKS,
        "codebook_dim": 64,
        "normalize": False,
        "causal": False,
        "semantic_techer": "hubert_base_general",
        "last_layer_semantic": True,
        "merge_mode": "concat",
        "downsample_mode": "step_down",
        "semantic_mode": "classic",
        "vq_scale": 1,
        "semantic_sample_rate": 16000,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    model = HiggsAudioTokenizer(**config, device="cpu").eval()
    with torch.no_grad():
        for layer in model.quantizer.vq.layers:
            layer._codebook.embed.normal_()
            layer._codebook.inited.fill_(True)  # or it would take minutes to learn from a voice
        last = model.decoder_2.model[-1]
        sound = torch.from_numpy(model.decode(torch.randint(0, CODES, (1, CODEBOOKS, 100))))
        last.bias -= sound.mean()
        for part in (last.weight_g, last.bias):
            part *= LOUDNESS / sound.std()
    # HuBERT comes from its own repository; nothing of a server uses the semantic decoder.
    left_out = ("semantic_model.", "decoder_semantic.")
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
        if not name.startswith(left_out)
    }
    torch.save(weights, folder / "model.pth")


def main(arguments: list[str]) -> int:
    """Parse the command line and make the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--revision",
        action="append",
        default=[],
        metavar="REPOSITORY=COMMIT",
        help="under which revision a repository is stored; can be given several times",
    )
    options = parser.parse_args(arguments)
    make(options.folder.resolve(), dict(x.split("=", 1) for x in options.revision))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
