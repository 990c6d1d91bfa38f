"""Each step of a compiled model, compared with the same step without compilation.

`HIGGS_CPU_STEPS=FILE` computes each step twice, and appends a line of JSON to FILE:

    tokens    tokens of the step
    padded    rows that the compiled code was given; the others are padding
    requests  requests that the tokens belong to
    audio     tokens that are frames of audio
    cosine    of the hidden states, of the token with the least
    equal     whether the hidden states are the same to the last bit
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cosine_similarity


def compare(model: Any) -> None:
    """Compare the steps of a model from now on, if that is asked for.

    The step without compilation comes first and takes no padding. Its keys and values are replaced
    by those of the compiled step, so the server's answers are the compiled model's.
    """
    if not (path := os.environ.get("HIGGS_CPU_STEPS")):
        return
    from vllm.forward_context import get_forward_context

    kind, file = type(model), Path(path)
    compiled = kind.__call__

    def __call__(self: Any, **inputs: Any) -> Any:
        context = get_forward_context()
        if context.attn_metadata is None:  # a run with dummy data
            return compiled(self, **inputs)
        tokens = context.attn_metadata.num_actual_tokens
        kinds = context.multimodal_metadata
        padded = kinds.token_mm_map
        kinds.token_mm_map = padded[:tokens]
        expected = self.forward(
            **{name: value if value is None else value[:tokens].clone()
               for name, value in inputs.items()}
        )  # fmt: skip
        kinds.token_mm_map = padded
        result = compiled(self, **inputs)
        got = result[:tokens]
        line = {
            "tokens": tokens,
            "padded": len(result),
            "requests": len(context.attn_metadata.seq_lens),
            "audio": int(padded[:tokens].sum()),
            "cosine": cosine_similarity(got.double(), expected.double(), dim=-1).min().item(),
            "equal": torch.equal(got, expected),
        }
        with file.open("a") as steps:
            steps.write(json.dumps(line) + "\n")
        return result

    kind.__call__ = __call__
