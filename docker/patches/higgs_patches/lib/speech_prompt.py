"""Prompts of speech requests, and their sampling parameters.

A prompt is a system message, the voice's transcript and recording as a first turn, and the text as
the next one. `instructions` stand in the system message as the description of the scene.
"""

from __future__ import annotations

import asyncio
import functools
import io
import math
from typing import TYPE_CHECKING, Any

from higgs_patches.lib.audio import FRAMES_PER_SECOND
from higgs_patches.lib.errors import RefusedError
from higgs_patches.lib.special_tokens import SCENE_TOKENS
from higgs_patches.lib.speech_length import FEWEST_TOKENS, default_max_tokens, expected_tokens
from higgs_patches.lib.speech_request import SpeechRequest
from higgs_patches.lib.voices.voice import Voice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLONE_PROMPT = "Convert text to speech with the same voice."
"""The system message that goes with a recorded voice (the server's)."""

SCENE_PROMPT = "Generate audio following instruction."
"""The system message that goes with a scene (the model's reference client)."""

RECORDING = "<|audio_bos|><|AUDIO|><|audio_eos|>"
"""Stands for a recording in a message; the chat template marks it as said by the assistant."""

END_TOKENS = ("<|eot_id|>", "<|end_of_text|>")
"""Tokens after which there is no more speech, beside the model config's end of audio."""


def system_message(voice: Voice, scene: str) -> str:
    """Return the system message for a voice and the description of a scene, which may be empty."""
    if not scene:
        return voice.system_prompt or CLONE_PROMPT
    start, end = SCENE_TOKENS
    return f"{voice.system_prompt or SCENE_PROMPT}\n\n{start}\n{scene}\n{end}"


def messages(voice: Voice, text: str, scene: str) -> list[dict[str, str]]:
    """Return the conversation that has this text spoken next.

    A voice with a system prompt is described by it and has no recording.
    """
    recorded = [
        {"role": "user", "content": voice.transcript},
        {"role": "assistant", "content": RECORDING},
    ]
    return [
        {"role": "system", "content": system_message(voice, scene)},
        *([] if voice.system_prompt else recorded),
        {"role": "user", "content": text},
    ]


async def build_prompt(
    serving: Any, tokenizer: Any, voice: Voice, text: str, scene: str, recording: Any = None
) -> tuple[Any, int]:
    """Return what the engine is given, and how many tokens of its context that takes."""
    from vllm.inputs import TokensPrompt

    def tokens() -> list[int]:
        spelled = tokenizer.apply_chat_template(
            messages(voice, text, scene),
            chat_template=serving.get_chat_template(),
            add_generation_prompt=True,
            tokenize=False,
        )
        return list(tokenizer.encode(spelled, add_special_tokens=False))

    loop = asyncio.get_running_loop()
    # In the one thread that may use the tokenizer: fast tokenizers are not for two at a time.
    ids = await loop.run_in_executor(serving._tokenizer_executor, tokens)
    prompt, length = TokensPrompt(prompt_token_ids=ids), len(ids)
    if not voice.system_prompt:
        recording = recording or await loop.run_in_executor(None, _samples, voice.audio)
        prompt["multi_modal_data"] = {"audio": [recording]}
        samples, rate = recording
        length += FEWEST_TOKENS + math.ceil(len(samples) / rate * FRAMES_PER_SECOND)
    return prompt, length


@functools.lru_cache(maxsize=64)
def _samples(wav: bytes) -> tuple[NDArray[np.float32], int]:
    """Return samples of one channel, and sample rate, of a recording, as librosa.load has them.

    librosa itself compiles for half a minute of processor time in each new container.
    """
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32", always_2d=True)
    return samples.mean(axis=1), rate


def sampling_params(serving: Any, settings: dict[str, Any], tokenizer: Any) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    vocabulary = tokenizer.get_vocab()
    ends = {vocabulary[token] for token in END_TOKENS if token in vocabulary}
    ends.add(serving.model_config.hf_config.audio_eos_token_id)
    return SamplingParams.from_optional(
        **settings,
        stop_token_ids=sorted(ends),
        output_kind=RequestOutputKind.DELTA,
        detokenize=False,  # only the frames are used
    )


def sampling_settings(request: SpeechRequest, text: str, room: int) -> dict[str, Any]:
    """Return how a request wants its codes drawn, by the names of vLLM's SamplingParams.

    `room` is how many tokens the context has left. Raises RefusedError if the speech does not fit.
    """
    extra = {
        name: value
        for name in ("ras_win_len", "ras_win_max_num_repeat")
        if (value := getattr(request, name)) is not None
    }
    needed = FEWEST_TOKENS if request.max_tokens else expected_tokens(text)
    if needed > room:
        fitting = max(room, 0) * len(text) // needed
        raise RefusedError(
            f"input: speech of this text takes about {needed} tokens, and the prompt leaves "
            f"{max(room, 0)} of the model's context, room for about {fitting} of the "
            f"{len(text)} characters; send the text in parts",
            "input",
        )
    return {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k or -1,
        "seed": request.seed,
        "max_tokens": min(request.max_tokens or default_max_tokens(text), room),
        "extra_args": extra or None,
    }
