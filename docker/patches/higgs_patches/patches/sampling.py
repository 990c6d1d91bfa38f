"""Sample text and audio for a batch, with repetition-aware sampling and reproducible seeds.

In a step each request needs one of three things: the next text token; the first frame of an
utterance, which is fixed; or the next frame. The fork samples text and audio for every request,
with the text's settings on the audio, and then corrects row by row, waiting for the device.

Here

- the placeholder tokens of audio are never sampled as text, and neither is the token that begins
  audio if the request asked for text alone (``extra_args={"audio": False}``): the engine ends when
  a placeholder has no frame;
- frames are sampled for all requests at once (`frame_sampling`), see `repetition` for the limit;
- settings that mean the text vocabulary (penalties, biases, bad and allowed words, logprobs) stay
  with the text;
- a request with a ``seed`` has an RNG of its own, from which it takes the same numbers in the same
  order whatever else is in the batch, whether it was preempted, and however its prompt was split.
  Temperature 0 without a seed has seed 0: sampling again after a repetition needs an RNG.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from vllm.v1.multimodal.metadata import MultimodalMetadata
from vllm.v1.outputs import SamplerOutput

from higgs_patches.lib import repetition, text_rows
from higgs_patches.lib.audio_forward import STEP
from higgs_patches.lib.frame_sampling import (
    GREEDY_BELOW,
    FrameSamplingParams,
    apply_delay_pattern,
    sample_frames,
)

PATCH = {
    "title": "Sample audio with repetition-aware sampling, and never a placeholder as text",
    "issues": [
        "https://github.com/boson-ai/higgs-audio/issues/156",
        "https://github.com/boson-ai/higgs-audio/issues/126",
    ],
    "why": (
        "The server lacks the reference engine's repetition-aware sampling: long silence, speech "
        "without an end. Its text head may sample an audio placeholder, and settings of the text "
        "are applied to rows of audio: both end the engine for all. A seed does not repeat."
    ),
    "obsolete_when": (
        "sample_with_multimodal_metadata counts repetitions over a window, and masks "
        "audio_in_token_idx and audio_out_token_idx in the text logits."
    ),
    "targets": [
        {
            "file": "vllm/model_executor/models/higgs_audio.py",
            "name": "HiggsAudioForConditionalGeneration.sample_with_multimodal_metadata",
            "how": "replace",
            "with": "sample_with_multimodal_metadata",
            "sha256": "9edde4ac9b5cd76b3423f0b496559ad5e0485aa5945b96df65910d6999efd371",
            "fixed": r"ras_win_len",
        },
        {
            "file": "vllm/v1/worker/gpu_model_runner.py",
            "name": "GPUModelRunner._calc_multimodal_metadata",
            "how": "replace",
            "with": "_calc_multimodal_metadata",
            "sha256": "4756f36ca1e56a09b191b4f8e212be0e5c4e2bb2d6810770df3c4538553f2081",
        },
    ],
}

TEXT, BEGIN, SPEAK, NOTHING = range(4)
"""What a step gives a request: a text token, the first frame, a further frame, or nothing yet
because only a part of its prompt was read."""


@dataclass
class RequestSampling:
    """State of a request's sampling between steps; an attribute of its state in the worker."""

    generator: torch.Generator | None
    window: repetition.RepetitionWindow | None
    text_alone: bool


@dataclass
class SamplingBatch:
    """What a step samples for each row; an attribute of vLLM's metadata."""

    steps: list[int] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    windows: list[repetition.RepetitionWindow | None] = field(default_factory=list)
    generators: dict[int, torch.Generator] = field(default_factory=dict)
    text_alone: list[int] = field(default_factory=list)
    """Rows that must not begin audio."""


def _calc_multimodal_metadata(self: Any, scheduler_output: Any) -> MultimodalMetadata:
    """Say for every request of the batch what it gets in this step (method of GPUModelRunner)."""
    config = self.model.config
    # The requests' generators are held in `RequestSampling`. The runner would rewind those of
    # unfinished prompts by a fixed count, which a CPU generator cannot do.
    self.input_batch.generators.clear()
    count = scheduler_output.total_num_scheduled_tokens
    ids = self.input_ids[:count]
    is_audio = (ids == config.audio_in_token_idx) | (ids == config.audio_out_token_idx)
    self.token_mm_map[:count] = is_audio
    batch = SamplingBatch()
    last_tokens = []
    for row, req_id in enumerate(self.input_batch.req_ids):
        request = self.requests[req_id]
        state = getattr(request, "higgs_sampling", None)
        if state is None:
            state = request.higgs_sampling = _state(self, request)
        step = _step(request, scheduler_output.num_scheduled_tokens[req_id], config)
        speaking = state.window if step == SPEAK else None
        if speaking:
            speaking.follow(request.output_mm_token_ids)
        batch.steps.append(step)
        batch.windows.append(speaking)
        batch.begun.append(request.num_audio_delays)
        batch.ended.append(request.num_audio_eos)
        last_tokens.append(request.prompt_token_ids[-1])
        if state.generator is not None:
            batch.generators[row] = state.generator
        if state.text_alone:
            batch.text_alone.append(row)
    one_each = count == len(batch.steps)
    setattr(self.model, STEP, one_each and all(step == SPEAK for step in batch.steps))
    metadata = MultimodalMetadata(batch.ended, batch.begun, last_tokens, is_audio)
    metadata.higgs_batch = batch
    return metadata


def _step(request: Any, scheduled: int, config: Any) -> int:
    if request.num_computed_tokens + scheduled < request.num_tokens:
        return NOTHING
    last = (request.output_token_ids or request.prompt_token_ids)[-1]
    if last == config.audio_out_bos_token_id:
        return BEGIN
    if request.output_token_ids and last == config.audio_out_token_idx:
        return SPEAK
    return TEXT


def _state(runner: Any, request: Any) -> RequestSampling:
    params = request.sampling_params
    extra = params.extra_args or {}
    limit = repetition.of_request(extra)
    generator = request.generator
    if generator is None and limit and params.temperature < GREEDY_BELOW:
        generator = torch.Generator(device=runner.device)
        generator.manual_seed(params.seed or 0)
    window = None
    if limit:
        codebooks = runner.model.config.audio_num_codebooks
        before = _spoken_in_prompt(request, limit.window, runner.model)
        window = repetition.RepetitionWindow(limit, codebooks, before)
    return RequestSampling(generator, window, extra.get("audio") is False)


def _spoken_in_prompt(request: Any, wanted: int, model: Any) -> list[list[int]]:
    """The last frames of the prompt that are the model's own part of the conversation.

    The reference engine counts them to the window; a voice to speak with is given this way.
    """
    frames: list[list[int]] = []
    if model.use_whisper_tokenizer:
        return frames
    places = list(zip(request.mm_positions, request.mm_inputs, strict=True))
    for place, item in reversed(places):
        before = place["offset"] - 1
        if before < 0 or request.prompt_token_ids[before] != model.config.audio_out_bos_token_id:
            continue
        codes = item["audio_features"]
        codes = codes.reshape(codes.shape[-2:])[:, : place["length"]]
        spoken = codes[:, -(wanted - len(frames)) :]
        frames = spoken.T.tolist() + frames
        if len(frames) >= wanted:
            break
    return frames


def sample_with_multimodal_metadata(
    self: Any, logits: Any, sampling_metadata: Any, multimodal_metadata: Any
) -> tuple[SamplerOutput, SamplerOutput | None]:
    """Return text tokens (requests, 1) and frames (requests, codebooks; -1 where there is none).

    Method of the model; `logits` are those of the text (requests, tokens) and, if the model speaks,
    of the audio (requests, codebooks, codes).
    """
    text_logits, audio_logits = logits if isinstance(logits, tuple) else (logits, None)
    batch = getattr(multimodal_metadata, "higgs_batch", None)
    if batch is None:  # a trial run at the start
        zeros = [0] * len(text_logits)
        batch = SamplingBatch([TEXT] * len(zeros), zeros, zeros, [None] * len(zeros))
    if audio_logits is None:
        return _text(self, text_logits, sampling_metadata, batch, text_logits.device), None
    config = self.config
    count, codebooks, _ = audio_logits.shape
    device = audio_logits.device
    windows, repeats = repetition.stacked(batch.windows, codebooks)
    known = [batch.steps, batch.begun, batch.ended, repeats]
    step, begun, ended, limits = torch.tensor(known).to(device, non_blocking=True)

    text = _text(self, text_logits, sampling_metadata, batch, device)
    over = (step == SPEAK) & (ended >= codebooks)
    forced = torch.where(over, config.audio_eos_token_id, config.audio_out_token_idx).int()
    is_text = (step == TEXT).unsqueeze(1)
    text.sampled_token_ids = torch.where(is_text, text.sampled_token_ids, forced.unsqueeze(1))

    bos, eos = config.audio_stream_bos_id, config.audio_stream_eos_id
    frames = torch.full((count, codebooks), bos, device=device)
    if SPEAK in batch.steps:
        seen = torch.from_numpy(windows).to(device, non_blocking=True) if windows.size else None
        speaking = {row: g for row, g in batch.generators.items() if batch.steps[row] == SPEAK}
        params = FrameSamplingParams(
            temperature=sampling_metadata.temperature,
            top_k=sampling_metadata.top_k,
            top_p=sampling_metadata.top_p,
            min_p=sampling_metadata.min_p,
            some_greedy=not sampling_metadata.all_random,
            generators=speaking,
        )
        codes = sample_frames(audio_logits, params, seen, limits)
        codes = apply_delay_pattern(codes, begun, ended, bos, eos)
        frames = torch.where((step == SPEAK).unsqueeze(1), codes, frames)
    spoken = ((step == BEGIN) | ((step == SPEAK) & ~over)).unsqueeze(1)
    frames = torch.where(spoken, frames, -1).int()
    return text, SamplerOutput(sampled_token_ids=frames, logprobs_tensors=None)


def _text(
    model: Any, logits: Tensor | None, sampling_metadata: Any, batch: SamplingBatch, device: Any
) -> SamplerOutput:
    """Sample a text token for each row that gets one."""
    rows = [row for row, step in enumerate(batch.steps) if step == TEXT]
    config, count = model.config, len(batch.steps)
    if not rows or logits is None:
        nothing = torch.zeros(count, 1, dtype=torch.int32, device=device)
        return SamplerOutput(sampled_token_ids=nothing, logprobs_tensors=None)
    known = torch.tensor([rows, [row in batch.text_alone for row in rows]])
    index, alone = known.to(device, non_blocking=True)
    if len(rows) < count:
        logits = logits[index]
    never = (config.audio_in_token_idx, config.audio_out_token_idx)
    for token in never:
        logits[:, token] = -torch.inf
    logits[:, config.audio_out_bos_token_id].masked_fill_(alone.bool(), -torch.inf)
    settings = replace(sampling_metadata, generators=batch.generators)
    sampled = model.sampler(logits, text_rows.settings_of(settings, rows, count, index))
    # Where every token is forbidden, any may come out of the sampler.
    tokens = sampled.sampled_token_ids
    forbidden = (tokens == never[0]) | (tokens == never[1])
    sampled.sampled_token_ids = torch.where(forbidden, config.audio_eos_token_id, tokens)
    return text_rows.spread(sampled, count, index)
