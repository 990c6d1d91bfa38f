"""Speech as server-sent events in OpenAI's form."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from typing import Any, Protocol


class SpeechUsage(Protocol):
    """What a speech request used, complete after its last chunk."""

    input_tokens: int
    output_tokens: int
    finish_reason: str


async def chained(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Give the first chunk, then the rest."""
    yield first
    async for chunk in rest:
        yield chunk


async def events(
    speech: SpeechUsage, first: bytes, rest: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """Give the file as OpenAI's server-sent events."""
    async for chunk in chained(first, rest):
        audio = base64.b64encode(chunk).decode()
        yield _event({"type": "speech.audio.delta", "audio": audio})
    usage = {
        "input_tokens": speech.input_tokens,
        "output_tokens": speech.output_tokens,
        "total_tokens": speech.input_tokens + speech.output_tokens,
    }
    done = {"type": "speech.audio.done", "usage": usage, "finish_reason": speech.finish_reason}
    yield _event(done)


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()
