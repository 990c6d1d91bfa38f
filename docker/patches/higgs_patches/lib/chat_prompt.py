"""Prompts of chat completions: their messages without special tokens, and the voice."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

from higgs_patches.lib.audio import FRAMES_PER_SECOND
from higgs_patches.lib.chat_messages import audio_parts, texts
from higgs_patches.lib.chat_request import ChatRequest
from higgs_patches.lib.errors import RefusedError
from higgs_patches.lib.special_tokens import INSTRUCTION_TOKENS, SCENE_TOKENS, clean
from higgs_patches.lib.speech_length import default_max_tokens
from higgs_patches.lib.voices.voice import Voice


def clean_messages(
    messages: list[dict[str, Any]], special_tokens: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return the messages without special tokens, but for those with which a text is marked up.

    A system message may describe a scene, a system or user message instruct the model.
    """
    kept = {"system": SCENE_TOKENS + INSTRUCTION_TOKENS, "user": INSTRUCTION_TOKENS}
    return [
        {**message, "content": _clean(message["content"], _without(special_tokens, kept, message))}
        for message in messages
    ]


def _without(
    special_tokens: tuple[str, ...], kept: dict[str, tuple[str, ...]], message: dict[str, Any]
) -> tuple[str, ...]:
    return tuple(token for token in special_tokens if token not in kept.get(message["role"], ()))


def _clean(content: Any, special_tokens: tuple[str, ...]) -> Any:
    if isinstance(content, str):
        return clean(content, special_tokens)
    return [
        {**part, "text": clean(part["text"], special_tokens)} if part["type"] == "text" else part
        for part in content
    ]


def with_voice(messages: list[dict[str, Any]], voice: Voice) -> list[dict[str, Any]]:
    """Return the messages after an example of the voice, or after its description."""
    first = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    system, rest = messages[:first], messages[first:]
    if voice.system_prompt:
        return [{"role": "system", "content": voice.system_prompt}, *system, *rest]
    url = "data:audio/wav;base64," + base64.b64encode(voice.audio).decode()
    example: list[dict[str, Any]] = [
        {"role": "user", "content": voice.transcript},
        {"role": "assistant", "content": [{"type": "audio_url", "audio_url": {"url": url}}]},
    ]
    return [*system, *example, *rest]


def check_audios(messages: list[dict[str, Any]], model_config: Any) -> None:
    """Refuse more audios than a prompt may have, before any of them is fetched."""
    limit = model_config.multimodal_config.get_limit_per_prompt("audio")
    if (count := len(audio_parts(messages))) > limit:
        raise RefusedError(
            f"messages hold {count} audios; at most {limit} are possible", "messages"
        )


def begins_with_audio(request: ChatRequest) -> bool:
    """Return whether the answer has to begin with audio."""
    if request.text and any(
        INSTRUCTION_TOKENS[0] in json.dumps(message["content"]) for message in request.messages
    ):
        return False
    return request.audio is True


def longest_answer(request: ChatRequest) -> float:
    """Return a bound in tokens for an answer that has none by its client.

    For audio it is that of speech of the last user's text, but not below a minute, since the model
    may say something else; for text only the context is a bound.
    """
    if not begins_with_audio(request):
        return math.inf
    said = [" ".join(texts(m["content"])) for m in request.messages if m["role"] == "user"]
    return max(default_max_tokens(said[-1] if said else ""), 60 * FRAMES_PER_SECOND)
