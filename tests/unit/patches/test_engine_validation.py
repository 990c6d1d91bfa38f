"""What the last check before the engine lets through, and what it refuses."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
from higgs_patches.patches import engine_validation
from higgs_patches.patches.engine_validation import EngineLimits

LIMITS = EngineLimits(
    vocabulary=512, context=4096, requests=8, audio_in=264, audio_out=265, audio_tokens=800
)
RATE = 24_000


def params(**changes: Any) -> Any:
    """The fields of vLLM's SamplingParams, with the defaults of a speech request."""
    fields: dict[str, Any] = {
        "n": 1, "top_k": 50, "max_tokens": None, "min_tokens": 0, "truncate_prompt_tokens": None,
        "seed": None, "temperature": 1.0, "extra_args": None, "guided_decoding": None,
        "prompt_logprobs": None, "logprobs": None, "stop": [], "bad_words": [],
        "stop_token_ids": [], "logit_bias": None,
    }  # fmt: skip
    return types.SimpleNamespace(**fields | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n": 8},
        {"temperature": 0.0},
        {"top_k": -1},
        {"max_tokens": 10**9, "min_tokens": 10**9},
        {"seed": 2**63 - 1},
        {"seed": -(2**63)},
        {"stop": ["\n", " "], "stop_token_ids": [0, 511]},
        {"logit_bias": {0: -100.0, 511: 100.0}},
        {"bad_words": ["hello"]},
        {"extra_args": {"audio": True, "ras_win_len": 0, "ras_win_max_num_repeat": 3}},
        {"extra_args": {"audio": False}, "logprobs": 0},
    ],
)
def test_what_works_goes_through(changes: dict[str, Any]) -> None:
    engine_validation.check_sampling_params(params(**changes), LIMITS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 9}, "n is 9; expected a whole number from 1 to 8"),
        ({"top_k": 2**31}, "top_k is 2147483648; expected a whole number from -1 to 2147483647"),
        ({"max_tokens": 10**30}, "max_tokens is"),
        ({"min_tokens": 2**64}, "min_tokens is"),
        ({"truncate_prompt_tokens": 10**30}, "truncate_prompt_tokens is"),
        ({"seed": 2**63}, "seed is"),
        ({"seed": 1.0}, "seed is"),
        ({"temperature": float("nan")}, "temperature is nan; expected 0 to 100"),
        ({"temperature": float("inf")}, "temperature is"),
        ({"temperature": 1e39}, "temperature is"),
        ({"guided_decoding": object()}, "structured output"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"logprobs": 3}, "logprobs are given with answers of text alone"),
        ({"logprobs": 3, "extra_args": {"audio": True}}, "logprobs"),
        ({"stop": ["x"] * 65}, "stop holds 65 strings; at most 64"),
        ({"stop": ["x" * 1001]}, "a string of stop has 1001 characters; expected 1 to 1000"),
        ({"stop": ["a\ud83d"]}, r"a string of stop holds half of a character: 'a\\ud83d'"),
        ({"bad_words": ["  "]}, "a string of bad_words has 0 characters; expected 1 to 1000"),
        ({"stop_token_ids": [512]}, "a token of stop_token_ids is"),
        ({"stop_token_ids": [-1]}, "a token of stop_token_ids is"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids holds 65 tokens; at most 64"),
        ({"logit_bias": {512: 1.0}}, "a token of logit_bias is"),
        ({"logit_bias": {-1: 1.0}}, "a token of logit_bias is"),
        (
            {"logit_bias": {1: float("nan")}},
            "logit_bias of token 1 is nan; expected a finite number",
        ),
        (
            {"logit_bias": dict.fromkeys(range(301), 1.0)},
            "logit_bias holds 301 tokens; at most 300",
        ),
        ({"extra_args": {"ras": 1}}, r"extra_args holds \['ras'\]; expected"),
        ({"extra_args": {"audio": "no"}}, "extra_args audio is .no.; expected true or false"),
        ({"extra_args": {"ras_win_len": "7"}}, "ras_win_len is .7.; expected a whole number"),
    ],
)
def test_what_the_engine_cannot_work_with_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine_validation.check_sampling_params(params(**changes), LIMITS)


def sound(seconds: float, rate: int = RATE) -> Any:
    return np.zeros(int(seconds * rate), dtype=np.float32), rate


def prompt(tokens: list[int], *audios: Any) -> dict[str, Any]:
    return {"prompt_token_ids": tokens, "multi_modal_data": {"audio": list(audios)}}


@pytest.mark.parametrize(
    "given",
    [
        "a text",
        {"prompt": "a text"},
        {"prompt_token_ids": [1, 2]},
        {"prompt_token_ids": [1], "multi_modal_data": None, "mm_processor_kwargs": None},
        prompt([1, 264, 2, 264], sound(0.1), sound(60)),
        prompt([264], sound(1)[0]),
        {"prompt_token_ids": [264], "multi_modal_data": {"audio": sound(1)}},
    ],
)
def test_good_prompts_go_through(given: Any) -> None:
    engine_validation.check_prompt(given, LIMITS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (prompt([1, 265]), "a prompt cannot hold the token of generated audio"),
        (prompt([264, 264], sound(1)), "the prompt has places for 2 audios, but 1 came"),
        (prompt([1], sound(1)), "the prompt has places for 0 audios, but 1 came"),
        ({"prompt_token_ids": [264]}, "places for 1 audios, but 0 came"),
        (prompt([264], sound(0)), "audio 1: it lasts 0.000 s"),
        (prompt([264], sound(0.05)), "audio 1: it lasts 0.050 s; 0.1 to 60 s are possible"),
        (prompt([264, 264], sound(1), sound(61)), "audio 2: it lasts 61.000 s"),
        (prompt([264], (sound(1)[0] * np.nan + np.nan, RATE)), "audio 1: it holds samples that"),
        (prompt([264], (np.full(RATE, np.inf), RATE)), "audio 1: it holds samples that"),
        (prompt([264], (np.zeros((2, RATE)), RATE)), "audio 1: expected a row of numbers"),
        (prompt([264], (np.full(9, "a"), RATE)), "audio 1: expected a row of numbers"),
        (prompt([264], (np.zeros(RATE), 0)), "audio 1: its rate is 0 Hz; expected 4000 to 384000"),
        (
            {"prompt_token_ids": [1], "multi_modal_data": {"image": [object()]}},
            "this model takes text and audio, not image",
        ),
        (
            {"prompt_token_ids": [1], "mm_processor_kwargs": {"truncation": True}},
            "mm_processor_kwargs are not supported",
        ),
    ],
)
def test_bad_prompts_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine_validation.check_prompt(given, LIMITS)


def test_longest_audio_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGS_MAX_REFERENCE_SECONDS", "2")
    engine_validation.check_prompt(prompt([264], sound(2)), LIMITS)
    with pytest.raises(ValueError, match=r"0.1 to 2 s are possible \(HIGGS_MAX_REFERENCE_SECONDS"):
        engine_validation.check_prompt(prompt([264], sound(2.1)), LIMITS)


def test_audios_fill_exactly_their_places() -> None:
    places = [{"offset": 1, "length": 2}, {"offset": 4, "length": 1}]
    engine_validation.check_placeholders([1, 264, 264, 2, 264], places, LIMITS)
    engine_validation.check_placeholders([1, 2], [], LIMITS)


@pytest.mark.parametrize(
    ("tokens", "places"),
    [
        ([1, 264, 264], [{"offset": 1, "length": 1}]),
        ([1, 264, 2], [{"offset": 1, "length": 2}]),
        ([264], []),
        ([1], [{"offset": 0, "length": 1}]),
    ],
)
def test_other_places_are_refused(tokens: list[int], places: list[dict[str, int]]) -> None:
    with pytest.raises(ValueError, match="are not those that its audios fill"):
        engine_validation.check_placeholders(tokens, places, LIMITS)


def test_no_generated_audio_in_a_processed_prompt() -> None:
    with pytest.raises(ValueError, match="cannot hold the token of generated audio"):
        engine_validation.check_placeholders([1, 265], [], LIMITS)


def test_audio_that_can_never_be_scheduled_is_refused() -> None:
    """The scheduler would wait for a budget that never comes, and all others with it."""
    engine_validation.check_placeholders([264] * 800, [{"offset": 0, "length": 800}], LIMITS)
    with pytest.raises(ValueError, match="longer than the 32 s that the server can take at a time"):
        engine_validation.check_placeholders([264] * 801, [{"offset": 0, "length": 801}], LIMITS)


def processor(answer: Any) -> Any:
    config = types.SimpleNamespace(
        audio_in_token_idx=264, audio_out_token_idx=265, audio_num_codebooks=8
    )
    model = types.SimpleNamespace(hf_config=config, max_model_len=4096, get_vocab_size=lambda: 512)
    scheduler = types.SimpleNamespace(
        max_num_seqs=8, max_num_encoder_input_tokens=256, encoder_cache_size=256
    )
    configs = types.SimpleNamespace(scheduler_config=scheduler)
    return types.SimpleNamespace(model_config=model, vllm_config=configs, answer=answer)


def test_limits_are_the_servers() -> None:
    expected = EngineLimits(512, 4096, 8, 264, 265, 30 * 25 + 9)
    assert engine_validation.limits_of(processor(None)) == expected


def test_every_request_is_checked_before_and_after() -> None:
    seen: list[Any] = []

    @engine_validation.checked
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *rest: Any) -> Any:
        seen.append((request_id, rest))
        return self.answer

    def answer(tokens: list[int], **changes: Any) -> Any:
        return types.SimpleNamespace(
            prompt_token_ids=tokens, mm_placeholders=None, sampling_params=params(**changes)
        )

    good = answer([1, 2, 3], max_tokens=10**9, min_tokens=10**9)
    done = process_inputs(processor(good), "a", prompt([1, 2, 3]), params(), 12.5)
    assert done is good and seen == [("a", (12.5,))]
    assert done.sampling_params.max_tokens == done.sampling_params.min_tokens == 4093

    with pytest.raises(ValueError, match="n is 9"):
        process_inputs(processor(good), "b", prompt([1]), params(n=9))
    with pytest.raises(ValueError, match="places for 1 audios"):
        process_inputs(processor(good), "b", prompt([264]), params())
    assert len(seen) == 1, "a bad request must not be processed"
    with pytest.raises(ValueError, match="its audios fill"):
        process_inputs(processor(answer([264], max_tokens=5)), "c", "<|AUDIO|>", params())
