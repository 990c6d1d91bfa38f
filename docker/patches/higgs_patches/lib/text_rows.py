"""Sample text for those rows of a batch that write text.

A text token is sampled from 128,256 logits, which are sorted for top-k and top-p: milliseconds for
a batch of speech beside one request that writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from vllm.v1.outputs import LogprobsTensors, SamplerOutput


def settings_of(metadata: Any, rows: Sequence[int], count: int, index: Tensor) -> Any:
    """Return vLLM's SamplingMetadata for some rows of its batch.

    Args:
        metadata: of the whole batch.
        rows: the rows, ascending.
        count: how many rows the batch has.
        index: the rows on the device.
    """
    if len(rows) == count:
        return metadata

    def chosen(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[index]

    def renumbered(values: dict[int, Any]) -> dict[int, Any]:
        return {new: values[row] for new, row in enumerate(rows) if row in values}

    return replace(
        metadata,
        temperature=chosen(metadata.temperature),
        top_p=chosen(metadata.top_p),
        top_k=chosen(metadata.top_k),
        min_p=chosen(metadata.min_p),
        generators=renumbered(metadata.generators),
        prompt_token_ids=chosen(metadata.prompt_token_ids),
        frequency_penalties=chosen(metadata.frequency_penalties),
        presence_penalties=chosen(metadata.presence_penalties),
        repetition_penalties=chosen(metadata.repetition_penalties),
        output_token_ids=[metadata.output_token_ids[row] for row in rows],
        min_tokens=renumbered(metadata.min_tokens),
        logit_bias=[metadata.logit_bias[row] for row in rows],
        allowed_token_ids_mask=chosen(metadata.allowed_token_ids_mask),
        bad_words_token_ids=renumbered(metadata.bad_words_token_ids),
    )


def spread(sampled: SamplerOutput, count: int, index: Tensor) -> SamplerOutput:
    """Return what was sampled for some rows as of a batch of `count`, with zeros elsewhere."""

    def wide(values: Tensor) -> Tensor:
        return values.new_zeros((count, *values.shape[1:])).index_copy_(0, index, values)

    logprobs = sampled.logprobs_tensors
    return SamplerOutput(
        sampled_token_ids=wide(sampled.sampled_token_ids),
        logprobs_tensors=None if logprobs is None else LogprobsTensors(*map(wide, logprobs)),
    )
