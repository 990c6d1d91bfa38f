"""The model without what only text needs, for steps in which every token is audio.

Each layer of the model has two feed-forward networks, one for text and one for audio, and gives
each token through both: the one that is not its own gets zeros and gives zeros. In a step of audio
alone half of the weights are read for these zeros. `AudioForward` shares the layers and leaves the
network for text out; its numbers are the same, to the last bit.

It is a model of its own for torch.compile: a second graph with a cache folder of its own, and CUDA
graphs for the sizes that such a step can have. One graph with a choice in it would need a kernel
that chooses (a mixture of two experts), and the numbers would not be the same any more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

NAME = "higgs_audio_forward"
"""Attribute of the model: its `AudioForward`."""

STEP = "higgs_audio_step"
"""Attribute of the model: whether every token of this step is audio, one for each request."""


class AudioForward(nn.Module):  # type: ignore[misc]
    """The model's layers for tokens of audio.

    Args:
        vllm_config: of the engine.
        model: whose layers are used; it has loaded its weights.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "", model: Any) -> None:  # noqa: ARG002
        super().__init__()
        self.layers, self.norm = model.layers, model.norm

    def forward(
        self,
        input_ids: Tensor | None,  # noqa: ARG002
        positions: Tensor,
        intermediate_tensors: Any = None,  # noqa: ARG002
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states; the arguments are the model's own."""
        states = inputs_embeds
        for layer in self.layers:
            attended = layer.self_attn(
                positions=positions, hidden_states=layer.audio_input_layernorm(states)
            )
            states = states + attended
            states = states + layer.audio_mlp(layer.audio_post_attention_layernorm(states))
        result: Tensor = self.norm(states)
        return result


def fits(model: Any) -> bool:
    """Return whether a model's layers are those that `AudioForward` knows, and give zeros for
    zeros."""
    config = model.config
    return (
        config.audio_adapter_type == "dual_ffn_fast_forward"
        and len(model.layers) == len(config.audio_dual_ffn_layers)
        and not getattr(config.text_config, "mlp_bias", False)
    )


def install(runner: Any) -> None:
    """Give a runner's model its `AudioForward`, and let the model use it in steps of audio."""
    from vllm.compilation.decorators import support_torch_compile
    from vllm.config import set_current_vllm_config

    config = own_config(runner.vllm_config)
    compiled = support_torch_compile(dynamic_arg_dims={"positions": 0, "inputs_embeds": 0})
    with set_current_vllm_config(config):
        audio = compiled(AudioForward)(vllm_config=config, model=runner.model)
    runner.model.__dict__[NAME] = audio  # not as a part of it, which it is already
    kind = type(runner.model)
    if not hasattr(kind.__call__, "higgs_original"):
        kind.__call__ = _choosing(kind.__call__)


def own_config(vllm_config: Any) -> Any:
    """Return a configuration for a second graph: with its own cache, for steps of one token each.

    The layers' KV caches, which the attention finds in it by name, are shared.
    """
    config = copy.copy(vllm_config)
    ours = config.compilation_config = copy.copy(vllm_config.compilation_config)
    ours.cache_dir = f"{ours.cache_dir}-audio" if ours.cache_dir else ""
    ours.traced_files = set()
    ours.inductor_compile_config = dict(ours.inductor_compile_config)
    most = vllm_config.scheduler_config.max_num_seqs
    ours.cudagraph_capture_sizes = [x for x in ours.cudagraph_capture_sizes if x <= most]
    return config


def _choosing(original: Callable[..., Any]) -> Callable[..., Any]:
    def __call__(model: Any, *args: Any, **kwargs: Any) -> Any:
        audio = model.__dict__.get(NAME) if getattr(model, STEP, False) else None
        return audio(*args, **kwargs) if audio else original(model, *args, **kwargs)

    __call__.higgs_original = original  # type: ignore[attr-defined]
    return __call__
