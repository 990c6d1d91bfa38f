"""The end of speech, which random weights never choose by themselves.

A trained model ends its sound when the text has been spoken. Here the logits are changed: after a
number of frames that follows from the text alone, the end of the stream comes in one codebook after
the other, then the end of the turn. Sampling, delay pattern, scheduler and all else are the
server's. The smoke test judges lengths by the same rule (higgs_image/smoke/limits.py).

`HIGGS_CPU_ENDLESS=1` leaves the logits as the random weights give them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

FRAMES_PER_SECOND = 25
CHARACTERS_PER_SECOND = 15
PAUSE = 0.4
"""Seconds of speech besides the text itself."""


def frames_for(prompt: Sequence[int], header: int, header_end: int, turn_end: int) -> int:
    """Return the number of frames in which the last turn before the answer is spoken.

    Args:
        prompt: token ids; the tokenizer has one for each byte of a text.
        header: id of `<|start_header_id|>`, with which each turn begins.
        header_end: id of `<|end_header_id|>`, after which two line breaks and the text follow.
        turn_end: id of `<|eot_id|>`.
    """
    headers = [place for place, token in enumerate(prompt) if token == header]
    turn = list(prompt[headers[-2] : headers[-1]]) if len(headers) > 1 else list(prompt)
    if header_end in turn:
        turn = turn[turn.index(header_end) + 3 :]
    characters = len([token for token in turn if token != turn_end])
    return round(FRAMES_PER_SECOND * (PAUSE + characters / CHARACTERS_PER_SECOND))


def end_in_time(runner: Any) -> None:
    """Make a model runner's model end its speech.

    Args:
        runner: the model runner, after its model was loaded.
    """
    if os.environ.get("HIGGS_CPU_ENDLESS"):
        return
    model, config = runner.model, runner.model.config
    compute, ids = model.compute_logits, config.higgs_cpu
    lowest = float("-inf")

    def compute_logits(hidden_states: Any, sampling_metadata: Any) -> Any:
        text, audio = compute(hidden_states, sampling_metadata)
        rows = runner.input_batch.req_ids
        if audio is None or len(rows) != len(audio):
            return text, audio  # a run with dummy data
        audio[..., config.audio_stream_bos_id] = lowest
        ends = audio[..., config.audio_stream_eos_id].clone()
        audio[..., config.audio_stream_eos_id] = lowest
        for row, name in enumerate(rows):
            request = runner.requests[name]
            spoken = list(request.output_token_ids)
            following = {config.audio_eos_token_id: ids["turn_end"], ids["turn_end"]: ids["end"]}
            if spoken and spoken[-1] in following:
                text[row] = lowest
                text[row, following[spoken[-1]]] = 0.0
            frames = frames_for(
                request.prompt_token_ids, ids["header"], ids["header_end"], ids["turn_end"]
            )
            over = spoken.count(config.audio_out_token_idx) - frames
            for codebook in range(min(max(over, 0), config.audio_num_codebooks)):
                audio[row, codebook] = lowest
                audio[row, codebook, config.audio_stream_eos_id] = ends[row, codebook]
        return text, audio

    model.compute_logits = compute_logits
