"""Refuse requests that would end the engine, hang it, or starve the others.

This is the last check before the engine, for every endpoint. A refusal is a ValueError, which the
server answers with 400 and its message. The engine runs all requests in one batch, so a request
that it cannot work with ends it for all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from higgs_patches.lib import repetition
from higgs_patches.lib.audio import FRAMES_PER_SECOND, SAMPLE_RATE, reference
from higgs_patches.patch_settings import MAX_REFERENCE_SECONDS

PATCH = {
    "title": "Refuse what the engine cannot work with before it gets there",
    "issues": [],
    "why": (
        "Token ids beyond the vocabulary, structured output, prompt logprobs, NaN as a "
        "number, or a prompt whose placeholders and audios differ end the engine for all requests;"
        " an audio longer than the encoder's budget is never scheduled, nor is what waits behind."
    ),
    "obsolete_when": "Processor.process_inputs refuses each of them itself.",
    "targets": [
        {
            "file": "vllm/v1/engine/processor.py",
            "name": "Processor.process_inputs",
            "how": "wrap",
            "with": "checked",
            "sha256": "52858807858c3ca9fe07083f20e14a25f7cc2325741dbb57798bccefb34d787c",
        },
    ],
}

MAX_COUNT = 2**31 - 1
"""The largest count that a request may name; the engine's messages hold no more than 64 bits."""

MAX_TEMPERATURE = 100.0
"""The highest temperature: far above any use, far below where the logits lose their order."""

MAX_WORDS = 64
"""Stop strings, stop tokens or bad words of a request: each is compared at every token."""

MAX_WORD_LENGTH = 1000
"""Characters of one of them."""

MAX_BIASES = 300
"""Entries of logit_bias: each costs the engine some work at every token."""


@dataclass(frozen=True)
class EngineLimits:
    """What the engine can work with.

    Attributes:
        vocabulary: number of text tokens.
        context: tokens of a prompt and its answer.
        requests: that run at once.
        audio_in: the token that stands in a prompt for a frame of given audio.
        audio_out: the token that stands for a frame that was generated; never in a prompt.
        audio_tokens: tokens of one audio that the encoder can be scheduled for.
    """

    vocabulary: int
    context: int
    requests: int
    audio_in: int
    audio_out: int
    audio_tokens: int


def limits_of(processor: Any) -> EngineLimits:
    """Return the limits of vLLM's Processor, from the server's configuration."""
    model, scheduler = processor.model_config, processor.vllm_config.scheduler_config
    config = model.hf_config
    half_a_minute = 30 * FRAMES_PER_SECOND + config.audio_num_codebooks + 1
    return EngineLimits(
        vocabulary=model.get_vocab_size(),
        context=model.max_model_len,
        requests=scheduler.max_num_seqs,
        audio_in=config.audio_in_token_idx,
        audio_out=config.audio_out_token_idx,
        # vLLM plans for audios of 30 s, whatever the configuration says.
        audio_tokens=max(
            min(scheduler.max_num_encoder_input_tokens, scheduler.encoder_cache_size),
            half_a_minute,
        ),
    )


def checked(original: Callable[..., Any]) -> Callable[..., Any]:
    """Check a request before and after its prompt is processed (method of vLLM's Processor)."""

    @functools.wraps(original)
    def process_inputs(
        self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
    ) -> Any:
        limits = limits_of(self)
        check_sampling_params(params, limits)
        check_prompt(prompt, limits)
        request = original(self, request_id, prompt, params, *args, **kwargs)
        tokens = request.prompt_token_ids
        check_placeholders(tokens, request.mm_placeholders or [], limits)
        params = request.sampling_params
        params.max_tokens = min(params.max_tokens, limits.context - len(tokens))
        params.min_tokens = min(params.min_tokens, params.max_tokens)
        return request

    return process_inputs


def check_sampling_params(params: Any, limits: EngineLimits) -> None:
    """Refuse settings that the engine cannot work with, beyond what SamplingParams refuses.

    Args:
        params: vLLM's SamplingParams.
        limits: the engine's.

    Raises:
        ValueError: names the setting and what is allowed.
    """
    _whole("n", params.n, 1, limits.requests)
    _whole("top_k", params.top_k, -1, MAX_COUNT)
    _whole("max_tokens", params.max_tokens, 1, MAX_COUNT)
    _whole("min_tokens", params.min_tokens, 0, MAX_COUNT)
    _whole("truncate_prompt_tokens", params.truncate_prompt_tokens, 1, MAX_COUNT)
    _whole("seed", params.seed, -(2**63), 2**63 - 1)
    if not 0 <= params.temperature <= MAX_TEMPERATURE:  # false for NaN, too
        raise ValueError(f"temperature is {params.temperature}; expected 0 to {MAX_TEMPERATURE:g}")
    extra = params.extra_args or {}
    _check_extra(extra)
    if params.guided_decoding is not None:
        raise ValueError(
            "structured output (response_format, guided_json and the like, a forced tool) is not "
            "supported by this model"
        )
    if params.prompt_logprobs is not None:
        raise ValueError("prompt_logprobs (also asked for by echo) are not supported by this model")
    if params.logprobs is not None and extra.get("audio") is not False:
        raise ValueError("logprobs are given with answers of text alone: ask for no audio")
    _words("stop", params.stop or [])
    _words("bad_words", [word.strip() for word in params.bad_words or []])
    if len(stops := params.stop_token_ids or []) > MAX_WORDS:
        raise ValueError(
            f"stop_token_ids holds {len(stops)} tokens; at most {MAX_WORDS} are possible"
        )
    for token in stops:
        _whole("a token of stop_token_ids", token, 0, limits.vocabulary - 1)
    if len(biases := params.logit_bias or {}) > MAX_BIASES:
        raise ValueError(
            f"logit_bias holds {len(biases)} tokens; at most {MAX_BIASES} are possible"
        )
    for token, bias in biases.items():
        _whole("a token of logit_bias", token, 0, limits.vocabulary - 1)
        if not math.isfinite(bias):
            raise ValueError(f"logit_bias of token {token} is {bias}; expected a finite number")


def _check_extra(extra: Mapping[str, Any]) -> None:
    known = {"audio", repetition.WINDOW, repetition.REPEATS}
    if unknown := sorted(map(str, set(extra) - known)):
        raise ValueError(f"extra_args holds {unknown}; expected {sorted(known)}")
    if extra.get("audio", True) not in (True, False):
        raise ValueError(f"extra_args audio is {extra['audio']!r}; expected true or false")
    repetition.of_request(extra)


def _whole(name: str, value: Any, least: int, most: int) -> None:
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise ValueError(f"{name} is {value!r}; expected a whole number from {least} to {most}")


def _words(name: str, words: Sequence[str]) -> None:
    if len(words) > MAX_WORDS:
        raise ValueError(f"{name} holds {len(words)} strings; at most {MAX_WORDS} are possible")
    for word in words:
        if not 1 <= len(word) <= MAX_WORD_LENGTH:
            raise ValueError(
                f"a string of {name} has {len(word)} characters; expected 1 to {MAX_WORD_LENGTH}"
            )
        if not word.isprintable() and any("\ud800" <= char <= "\udfff" for char in word):
            raise ValueError(f"a string of {name} holds half of a character: {word!r}")


def check_prompt(prompt: Any, limits: EngineLimits) -> None:
    """Refuse a prompt before its audio is encoded, which takes long and much memory.

    Args:
        prompt: as vLLM's engine clients get it; only prompts of token ids have their tokens
            checked here, see `check_placeholders` for all others.
        limits: the engine's.

    Raises:
        ValueError: says what is wrong with it.
    """
    if not isinstance(prompt, Mapping):
        return
    if prompt.get("mm_processor_kwargs"):
        raise ValueError("mm_processor_kwargs are not supported by this model")
    given = prompt.get("multi_modal_data") or {}
    if others := sorted(set(given) - {"audio"}):
        raise ValueError(f"this model takes text and audio, not {', '.join(others)}")
    audios = given.get("audio")
    audios = [] if audios is None else audios if isinstance(audios, list) else [audios]
    if tokens := prompt.get("prompt_token_ids"):
        _no_generated(tokens, limits)
        places = list(tokens).count(limits.audio_in)
        if places != len(audios):
            raise ValueError(f"the prompt has places for {places} audios, but {len(audios)} came")
    for number, audio in enumerate(audios, start=1):
        try:
            _check_audio(audio)
        except ValueError as error:
            raise ValueError(f"audio {number}: {error}") from None


def _check_audio(audio: Any) -> None:
    import numpy as np

    samples, rate = audio if isinstance(audio, tuple) else (audio, SAMPLE_RATE)
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype.kind not in "fiu":
        raise ValueError("expected a row of numbers, the samples of one channel")
    if not reference.MIN_RATE <= rate <= reference.MAX_RATE:
        raise ValueError(
            f"its rate is {rate} Hz; expected {reference.MIN_RATE} to {reference.MAX_RATE}"
        )
    longest = MAX_REFERENCE_SECONDS.read()
    if not reference.MIN_SECONDS <= len(samples) / rate <= longest:
        raise ValueError(
            f"it lasts {len(samples) / rate:.3f} s; {reference.MIN_SECONDS:g} to {longest:g} s are "
            "possible (HIGGS_MAX_REFERENCE_SECONDS)"
        )
    if not np.isfinite(samples).all():
        raise ValueError("it holds samples that are not finite")


def check_placeholders(
    tokens: Sequence[int], places: Sequence[Mapping[str, int]], limits: EngineLimits
) -> None:
    """Refuse a prompt whose tokens are not exactly those that its audios fill.

    Args:
        tokens: of the processed prompt.
        places: offset and length of each audio in it.
        limits: the engine's.

    Raises:
        ValueError: says what is wrong with it.
    """
    _no_generated(tokens, limits)
    filled = {
        position
        for place in places
        for position in range(place["offset"], place["offset"] + place["length"])
    }
    if filled != {position for position, token in enumerate(tokens) if token == limits.audio_in}:
        raise ValueError("the prompt's places for audio are not those that its audios fill")
    for place in places:
        if place["length"] > limits.audio_tokens:
            seconds = limits.audio_tokens / FRAMES_PER_SECOND
            raise ValueError(
                f"an audio lasts longer than the {seconds:.0f} s that the server can take at a time"
                " (--max-num-batched-tokens)"
            )


def _no_generated(tokens: Sequence[int], limits: EngineLimits) -> None:
    if limits.audio_out in tokens:
        raise ValueError("a prompt cannot hold the token of generated audio")
