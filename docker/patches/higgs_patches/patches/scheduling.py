"""Resume a request that was preempted from the KV cache where it was.

When the KV cache is full, vLLM takes a running request's blocks away and later computes its prompt
and all that it has generated once more. A generated audio frame stands in the token list as a
placeholder, and its codes are needed to compute it again. The fork gives the codes of the last
frame only: the engine ends, for all requests. It also looks in the cache of computed blocks for
generated blocks by their tokens, which are the same placeholder in every answer: the request would
go on with another one's voice.

Here

- each step gives the frames of exactly those placeholders that it computes;
- a resumed request's last token and frame reach the worker with its first step, however that step
  is cut;
- blocks with generated audio are never looked up or offered;
- a request with a seed computes its prompt itself: what another request left in the cache was
  computed in other company, and its last bits may differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

PATCH = {
    "title": "Resume preempted speech with all its frames, and never with another one's blocks",
    "issues": [],
    "why": (
        "A resumed request gets one frame for all its placeholders: 'Attempted to assign ... "
        "multimodal tokens to ... placeholders', and the engine is dead. Generated frames all have "
        "the same token, so hashes of cached blocks confuse the answers of different requests."
    ),
    "obsolete_when": (
        "The scheduler schedules the frames of a resumed request, and block hashes hold the codes."
    ),
    "targets": [
        {
            "file": "vllm/v1/worker/gpu_model_runner.py",
            "name": "GPUModelRunner._execute_encoder",
            "how": "wrap",
            "with": "without_frames",
            "sha256": "935f32714066f0c5d04a38c9fb19c775fc5f4c6b1eef7ea566eda90d2d67a029",
        },
        {
            "file": "vllm/v1/worker/gpu_model_runner.py",
            "name": "GPUModelRunner._gather_encoder_outputs",
            "how": "replace",
            "with": "_gather_encoder_outputs",
            "sha256": "eb21b73662a3f97b1064c95c556d6086f551890fbca2f3ba918c16343245e165",
        },
        {
            "file": "vllm/v1/worker/gpu_model_runner.py",
            "name": "GPUModelRunner._update_states",
            "how": "wrap",
            "with": "with_what_was_generated",
            "sha256": "acc9f15b35b17b203d7abd19ae5ea6b56b14a6c92232f56c11af6c8e0e0711fb",
        },
        {
            "file": "vllm/v1/core/sched/scheduler.py",
            "name": "Scheduler._make_cached_request_data",
            "how": "wrap",
            "with": "telling_what_was_generated",
            "sha256": "3434e570a5a0ed0b3a41adf9f923c3c7e720d7c1ecfe3774b9587d28ea1672c9",
        },
        {
            "file": "vllm/v1/core/kv_cache_utils.py",
            "name": "hash_request_tokens",
            "how": "wrap",
            "with": "without_generated_audio",
            "sha256": "400725c033936ed4e3671b1462faac9d0cff7ff1fab2c4c2e89f2b1388be4b91",
        },
        {
            "file": "vllm/v1/core/block_pool.py",
            "name": "BlockPool.cache_full_blocks",
            "how": "wrap",
            "with": "up_to_generated_audio",
            "sha256": "21b7c6e1f44af18c23b0a8ba3c4ece0e5110e533e850d9c05d94861010455435",
        },
        {
            "file": "vllm/v1/core/kv_cache_manager.py",
            "name": "KVCacheManager.get_computed_blocks",
            "how": "wrap",
            "with": "none_for_a_seed",
            "sha256": "89487518a22a32c8e165524cfd4bb57f4c1512b1636c5236a5cbcab621b13137",
        },
    ],
}

FRAME = -1
"""The scheduler's sign among the encoder inputs for 'the last generated frame'."""


def without_frames(original: Callable[..., None]) -> Callable[..., None]:
    """Leave generated frames out of the encoder's work: see `_gather_encoder_outputs`."""

    @functools.wraps(original)
    def _execute_encoder(self: Any, scheduler_output: Any) -> None:
        scheduled = {
            req_id: inputs
            for req_id, all_inputs in scheduler_output.scheduled_encoder_inputs.items()
            if (inputs := [i for i in all_inputs if i != FRAME])
        }
        scheduler_output.scheduled_encoder_inputs = scheduled
        original(self, scheduler_output)

    return _execute_encoder


def _gather_encoder_outputs(self: Any, scheduler_output: Any) -> list[torch.Tensor]:
    """Return the embeddings of all placeholders of this step, in the order of the batch.

    Method of GPUModelRunner. A request's prompt comes first, with the encoder's outputs for audio
    that was given, then the frames that it generated.
    """
    found: list[torch.Tensor | int] = []
    frames: list[list[int]] = []
    token = self.model.config.audio_out_token_idx
    for req_id in self.input_batch.req_ids:
        request = self.requests[req_id]
        start = request.num_computed_tokens
        stop = start + scheduler_output.num_scheduled_tokens[req_id]
        for index, place in enumerate(request.mm_positions):
            first = max(start, place["offset"])
            last = min(stop, place["offset"] + place["length"])
            if first < last:
                output = self.encoder_cache[req_id][index]
                found.append(output[first - place["offset"] : last - place["offset"]])
        if generated := frames_between(request, start, stop, token):
            found.append(len(generated))
            frames += generated
    if not frames:
        return [output for output in found if isinstance(output, torch.Tensor)]
    codes = torch.tensor(frames).to(self.device, non_blocking=True).T
    rest = self.model._embed_audio_ids(codes)
    if all(isinstance(output, int) for output in found):
        return [rest]
    outputs = []
    for output in found:
        if isinstance(output, int):
            outputs.append(rest[:output])
            rest = rest[output:]
        else:
            outputs.append(output)
    return outputs


def frames_between(request: Any, start: int, stop: int, token: int) -> list[list[int]]:
    """Return the frames of a request's generated placeholders at positions from start to stop."""
    prompt, output = request.num_prompt_tokens, request.output_token_ids
    start, stop = max(start - prompt, 0), stop - prompt
    if start >= stop:
        return []
    frames: list[list[int]] = request.output_mm_token_ids
    if start == len(output) - 1:  # nearly always: the token that was generated last
        return frames[-1:] if output[start] == token else []
    first = output[:start].count(token)
    return frames[first : first + output[start:stop].count(token)]


def telling_what_was_generated(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give the worker all generated tokens of a request that is resumed, and its last frame.

    The worker lacks those of the step after which the request was preempted. It gets them with the
    scheduled tokens, unless the step ends before them: then it would take the prompt for read.
    """

    @functools.wraps(original)
    def _make_cached_request_data(
        self: Any,
        request: Any,
        num_scheduled_tokens: int,
        num_scheduled_spec_tokens: int,
        new_block_ids: list[int],
        resumed_from_preemption: bool,
    ) -> Any:
        data = original(
            self,
            request,
            num_scheduled_tokens,
            num_scheduled_spec_tokens,
            new_block_ids,
            resumed_from_preemption,
        )
        data.higgs_generated = list(request.output_token_ids) if resumed_from_preemption else None
        return data

    return _make_cached_request_data


def with_what_was_generated(original: Callable[..., None]) -> Callable[..., None]:
    """Take over what `telling_what_was_generated` tells, before the states are updated."""

    @functools.wraps(original)
    def _update_states(self: Any, scheduler_output: Any) -> None:
        for data in scheduler_output.scheduled_cached_reqs:
            if data.higgs_generated is not None:
                request = self.requests[data.req_id]
                missing = data.higgs_generated[len(request.output_token_ids) :]
                request.output_token_ids.extend(missing)
                if missing and data.new_mm_token_ids:
                    request.output_mm_token_ids.append(data.new_mm_token_ids)
        original(self, scheduler_output)

    return _update_states


def _cacheable(request: Any) -> int:
    """How many of a request's tokens say all that was computed from them."""
    spoke = request.audio_num_codebooks is not None  # set with the first frame, and never unset
    tokens: int = request.num_prompt_tokens if spoke else request.num_tokens
    return tokens


def without_generated_audio(original: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Hash no block with generated audio."""

    @functools.wraps(original)
    def hash_request_tokens(hash_function: Any, block_size: int, request: Any) -> list[Any]:
        return original(hash_function, block_size, request)[: _cacheable(request) // block_size]

    return hash_request_tokens


def up_to_generated_audio(original: Callable[..., None]) -> Callable[..., None]:
    """Offer no block with generated audio to other requests."""

    @functools.wraps(original)
    def cache_full_blocks(
        self: Any,
        request: Any,
        blocks: list[Any],
        block_hashes: list[Any],
        num_cached_blocks: int,
        num_full_blocks: int,
        block_size: int,
        hash_fn: Callable[..., Any],
    ) -> None:
        full = min(num_full_blocks, _cacheable(request) // block_size)
        if full > num_cached_blocks:
            original(
                self, request, blocks, block_hashes, num_cached_blocks, full, block_size, hash_fn
            )

    return cache_full_blocks


def none_for_a_seed(
    original: Callable[..., tuple[list[Any], int]],
) -> Callable[..., tuple[list[Any], int]]:
    """Take no computed blocks for a request with a seed; its own are offered to others."""

    @functools.wraps(original)
    def get_computed_blocks(self: Any, request: Any) -> tuple[list[Any], int]:
        found = original(self, request)  # also hashes the prompt
        return found if request.sampling_params.seed is None else ([], 0)

    return get_computed_blocks
