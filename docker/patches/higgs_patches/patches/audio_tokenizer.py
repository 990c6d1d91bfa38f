"""Load the audio tokenizer once, from a directory, without code from the hub.

The fork loads it twice in the server's process, once to decode speech and once, at the first
request, to encode reference audio, and a third time in the engine's process, always on "cuda". Its
semantic model, HuBERT, is fetched unpinned from a third repository, with trust_remote_code.

The weights of the semantic model are part of the tokenizer's model.pth: transformers' own converter
of this tokenizer builds it from HubertConfig() and loads model.pth strictly. So nothing else is
needed, and no code from the hub is run. Only if HIGGS_SEMANTIC_MODEL_PATH names a directory, the
semantic model comes from there, without code from there.

The server's process shares one model. The engine's process only needs its dimensions: it profiles
its memory with silence, and takes codes.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import logging
import math
import os
import pickle
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from higgs_patches.lib.weights import WeightsError, complete, first_line
from higgs_patches.patch_settings import SEMANTIC_MODEL_PATH

log = logging.getLogger("vllm.higgs_patches.audio_tokenizer")

PATCH = {
    "title": "Load the audio tokenizer once, on the engine's device, and run no code from the hub",
    "issues": ["https://github.com/boson-ai/higgs-audio/issues/123"],
    "why": (
        "The tokenizer is loaded three times, once of them within the first request, and the "
        "semantic model in it is fetched unpinned from a third repository with trust_remote_code, "
        'though its weights are in the tokenizer\'s own file. The device is always "cuda".'
    ),
    "obsolete_when": (
        "the semantic model is loaded at a revision and without trust_remote_code, and "
        "get_processor takes the tokenizer that the server has loaded."
    ),
    "targets": [
        {
            "file": "vllm/model_executor/models/higgs_audio_tokenizer.py",
            "name": "AudioTokenizer.__init__",
            "how": "wrap",
            "with": "on_this_device",
            "sha256": "adc435ebcf16c474b9d832cf971674634cffe391dbe2c74317507661c77d0c90",
        },
        {
            "file": "vllm/model_executor/models/higgs_audio_tokenizer.py",
            "name": "load_higgs_audio_tokenizer",
            "how": "replace",
            "with": "load_higgs_audio_tokenizer",
            "sha256": "239a8f124039b9b051cc016fa72d87e5090573c36518d3c244ac5f3e362d0548",
        },
        {
            "file": "boson_multimodal/audio_processing/higgs_audio_tokenizer.py",
            "name": "AutoModel",
            "how": "replace",
            "with": "SemanticModel",
            "sha256": "cd7672fb1d761df35a46b76aeb415a2a9a2a0e78a96746dccff2a8ed162c27e3",
        },
    ],
}

FILES = ("config.json", "model.pth")
"""All that is read of the audio tokenizer."""

OWNER = "HIGGS_TOKENIZER_PROCESS"
"""Environment: the process that holds the tokenizer; set by the server for the engine."""


def on_this_device(original: Callable[..., None]) -> Callable[..., None]:
    """Put the tokenizer on the device that the engine uses, not always on "cuda"."""

    @functools.wraps(original)
    def __init__(self: Any, model: str, device: str = "cuda:0") -> None:
        original(self, model, device=_device(device))

    return __init__


def _device(device: str) -> str:
    from vllm.platforms import current_platform

    kind: str = current_platform.device_type
    return device if kind == "cuda" else kind


def load_higgs_audio_tokenizer(tokenizer_name_or_path: str, device: str = "cuda") -> Any:
    """Return the tokenizer, or its dimensions in the process of an engine.

    Args:
        tokenizer_name_or_path: a local directory.
        device: as torch names it.

    Raises:
        WeightsError: the directory does not hold an audio tokenizer.
    """
    directory = complete("audio tokenizer", tokenizer_name_or_path, FILES)
    if os.environ.get(OWNER) not in (None, str(os.getpid())):
        return TokenizerDimensions(_config(directory))
    return codec(directory, device)


_loading = threading.Lock()
_loaded: dict[tuple[Path, str], Any] = {}


def codec(directory: Path, device: str) -> Any:
    """Return the tokenizer of a directory; there is one in a process, for all who use it."""
    key = directory.resolve(), device
    with _loading:
        if key not in _loaded:
            began = time.monotonic()
            _loaded[key] = _load(directory, device)
            log.info("Loaded the audio tokenizer in %.1f s", time.monotonic() - began)
        return _loaded[key]


def _load(directory: Path, device: str) -> Any:
    import torch
    from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer

    config = _config(directory)
    file = directory / "model.pth"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{file} holds other objects than weights, so it is not loaded"
        ) from None
    except (RuntimeError, OSError, EOFError) as error:
        raise WeightsError(
            f"{file} is not a PyTorch file of weights: {first_line(error)}"
        ) from None
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{file} holds no weights by name")
    token = _state.set(state)
    try:
        model = HiggsAudioTokenizer(**config, device=device)
        missing = model.load_state_dict(state, strict=False).missing_keys
    except (RuntimeError, TypeError, ValueError) as error:
        problem = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{file} does not fit its config.json: {problem}") from None
    finally:
        _state.reset(token)
    _check_complete(missing, file)
    _freeze(model)
    return model.to(device).eval()


def _check_complete(missing: list[str], file: Path) -> None:
    """Refuse a file without decoder weights, and warn of missing encoder weights.

    Weights that only training needs may be missing.
    """
    missing_decoder = [
        x for x in missing if x.startswith(("decoder_2.", "quantizer.", "fc_post2."))
    ]
    if missing_decoder:
        raise WeightsError(
            f"{file} is not an audio tokenizer of this kind: it lacks {len(missing_decoder)} "
            f"decoder weights, the first is {missing_decoder[0]}"
        )
    missing_encoder = [
        x for x in missing if x.startswith(("encoder.", "encoder_semantic.", "fc_prior."))
    ]
    if missing_encoder:
        log.warning(
            "%s lacks %d encoder weights, the first is %s: voices will not be like their "
            "recordings",
            file,
            len(missing_encoder),
            missing_encoder[0],
        )


def _freeze(model: Any) -> None:
    """Remove what changes a loaded model in use, so that threads can share it."""
    import torch

    for module in model.modules():
        with contextlib.suppress(ValueError):  # it has no weight norm
            torch.nn.utils.remove_weight_norm(module)  # else computed again at each call
    for name, buffer in model.named_buffers():
        if name.endswith(".inited"):
            buffer.fill_(1)  # else the first audio would become the codebook


def _config(directory: Path) -> dict[str, Any]:
    """Return the arguments of HiggsAudioTokenizer: from config.json, its defaults for the rest."""
    from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer

    file = directory / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{file} is not a JSON object")
    known = inspect.signature(HiggsAudioTokenizer.__init__).parameters
    return {
        name: config.get(name, parameter.default)
        for name, parameter in known.items()
        if name not in ("self", "device")
    }


class TokenizerDimensions:
    """What the engine has to know of the tokenizer, which its process never uses.

    Args:
        config: the tokenizer's configuration.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.hop = math.prod(config["ratios"])
        self.sample_rate: int = config["sample_rate"]
        self.frame_rate = math.ceil(self.sample_rate / self.hop)
        self.n_q: int = config["n_q"]
        self.quantizer_dim = (config["D"] + 768) // config["vq_scale"]

    def encode(self, samples: Any, sampling_rate: int, *_: Any) -> Any:
        """Return codes for the silence with which the engine measures its memory.

        Raises:
            RuntimeError: it is not silence: the engine was given sound, which it cannot encode.
        """
        if sampling_rate != self.sample_rate or samples.any():
            raise RuntimeError("the engine's process has no audio tokenizer: it takes codes only")
        import torch

        return torch.zeros((self.n_q, math.ceil(len(samples) / self.hop)), dtype=torch.long)


_state: ContextVar[dict[str, Any] | None] = ContextVar("state", default=None)
"""The content of model.pth, while the tokenizer is made."""


class SemanticModel:
    """Replaces transformers' AutoModel where the tokenizer makes its semantic model."""

    @staticmethod
    def from_pretrained(name: str, **_: Any) -> Any:
        """Return the semantic model; no code is run.

        Args:
            name: the repository that the tokenizer asks for.

        Raises:
            WeightsError: neither model.pth nor a directory holds it.
        """
        if directory := SEMANTIC_MODEL_PATH.read():
            return _semantic_model(directory)
        if model := _inside(_state.get() or {}):
            return model
        raise WeightsError(
            f"model.pth lacks the semantic model {name}: name its directory with "
            "--semantic-model-path"
        )


def _inside(state: dict[str, Any]) -> Any:
    """Return an empty HuBERT if model.pth has every weight of it, else None."""
    import torch
    from transformers import HubertConfig, HubertModel

    with torch.device("meta"):
        shapes = {name: x.shape for name, x in HubertModel(HubertConfig()).state_dict().items()}
    found = {name: state.get(f"semantic_model.{name}") for name in shapes}
    if any(x is None or x.shape != shapes[name] for name, x in found.items()):
        return None
    log.info("The semantic model is the one in model.pth: nothing else is fetched")
    return HubertModel(HubertConfig())


def _semantic_model(directory: str) -> Any:
    from transformers import AutoModel

    path = complete("semantic model", directory, ["config.json"])
    log.info("Using the semantic model in %s", path)
    try:
        return AutoModel.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"the semantic model in {path} cannot be loaded: {first_line(error)}"
        ) from None
