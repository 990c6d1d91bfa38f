"""Read only the weights of audio in steps in which every token is audio.

That is every step of speech after the first frame: 5.7 GB of weights instead of 10.7. The head for
text is left out whenever nothing is sampled from it. The networks for text are left out by a second
graph (`lib.audio_forward`) if HIGGS_AUDIO_STEPS is set: its compilation and its CUDA graphs were
not seen on a GPU yet.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from higgs_patches.lib import audio_forward
from higgs_patches.patch_settings import AUDIO_STEPS

log = logging.getLogger("vllm.higgs_patches.audio_steps")

PATCH = {
    "title": "Read only the weights of audio in steps of audio alone",
    "issues": [],
    "why": (
        "Each token passes the feed-forward networks of text and of audio, and one of them gets "
        "zeros; logits of text are computed and not used. Half of the time of a step of speech "
        "goes into weights that change nothing."
    ),
    "obsolete_when": "HiggsAudioDualFFNDecoderLayer computes each network for its own tokens only.",
    "targets": [
        {
            "file": "vllm/model_executor/models/higgs_audio.py",
            "name": "HiggsAudioForConditionalGeneration.compute_logits",
            "how": "wrap",
            "with": "without_unused_text",
            "sha256": "73885b4e396199d0cd7e2dfad2da66561dca2bc41643618be887c2e4a311624a",
        },
        {
            "file": "vllm/model_executor/models/higgs_audio.py",
            "name": "HiggsAudioForConditionalGeneration.get_input_embeddings",
            "how": "wrap",
            "with": "without_placeholders",
            "sha256": "63542cd921648823879ca18fc3ab6d473c6e18ff53f92a074eea23b3dfec6bf5",
        },
        {
            "file": "vllm/v1/worker/gpu_model_runner.py",
            "name": "GPUModelRunner.load_model",
            "how": "wrap",
            "with": "with_audio_forward",
            "sha256": "aaed0db7de6ea7f48d940d097ac0191e693ecda64403c5475c3d79d71a598505",
        },
        {
            "file": "vllm/v1/worker/gpu_model_runner.py",
            "name": "GPUModelRunner.capture_model",
            "how": "wrap",
            "with": "capturing_both",
            "sha256": "b16d301e19868f0a88a23c432998645ca5632ce6e6ae3898459e95450fe1acfb",
        },
    ],
}


def without_unused_text(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give no logits of text, None, in a step of audio (method of the model)."""

    @functools.wraps(original)
    def compute_logits(self: Any, hidden_states: Any, sampling_metadata: Any) -> Any:
        if not getattr(self, audio_forward.STEP, False) or not self.generate_audio_out_token:
            return original(self, hidden_states, sampling_metadata)
        logits = self.audio_logits_processor(self.audio_lm_head, hidden_states, None)
        shape = (-1, self.audio_num_codebooks, self.audio_codebook_size)
        return None, logits.view(shape).float()

    return compute_logits


def without_placeholders(original: Callable[..., Any]) -> Callable[..., Any]:
    """Embed no placeholder in a step of audio, in which frames replace all (method of the model).

    Putting frames into the places of some tokens waits for the device.
    """

    @functools.wraps(original)
    def get_input_embeddings(self: Any, input_ids: Any, multimodal_embeddings: Any = None) -> Any:
        if not getattr(self, audio_forward.STEP, False):
            return original(self, input_ids, multimodal_embeddings)
        import torch

        return torch.cat(multimodal_embeddings)

    return get_input_embeddings


def with_audio_forward(original: Callable[..., None]) -> Callable[..., None]:
    """Load the model, and prepare its second graph if that is set (method of GPUModelRunner)."""

    @functools.wraps(original)
    def load_model(self: Any) -> None:
        original(self)
        if AUDIO_STEPS.read() and audio_forward.fits(self.model):
            audio_forward.install(self)
            log.info("Steps of audio alone leave the networks for text out")

    return load_model


def capturing_both(original: Callable[..., None]) -> Callable[..., None]:
    """Capture the CUDA graphs of both graphs (method of GPUModelRunner)."""

    @functools.wraps(original)
    def capture_model(self: Any) -> None:
        original(self)
        audio = self.model.__dict__.get(audio_forward.NAME)
        if audio is None or not self.use_cuda_graph:
            return
        from vllm.distributed.parallel_state import graph_capture

        config = audio.vllm_config.compilation_config
        sizes = config.cudagraph_capture_sizes  # the largest first: the others reuse its memory
        setattr(self.model, audio_forward.STEP, True)
        try:
            self._dummy_run(max([2, *sizes]))  # compiles; for 1 it would compile 1 alone
            with graph_capture(device=self.device):
                for size in sizes:
                    for _ in range(config.cudagraph_num_of_warmups + 1):
                        self._dummy_run(size)
        finally:
            setattr(self.model, audio_forward.STEP, False)

    return capture_model
