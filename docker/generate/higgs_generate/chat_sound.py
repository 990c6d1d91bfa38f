"""The sound in the server-sent events of a streamed chat completion."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncGenerator

from higgs_generate.failures import ServerFailedError

_DATA = b"data:"
_LONGEST_EVENT = 1 << 22


async def pcm_of_events(
    chunks: AsyncGenerator[bytes, None],
) -> AsyncGenerator[bytes, None]:
    """Give the PCM of the audio deltas.

    Raises:
        ServerFailedError: the server reports an error in the stream, or ends it without [DONE].
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LONGEST_EVENT:
            raise ServerFailedError("the server behind sent an event without an end")
        for line in lines:
            if not line.startswith(_DATA):
                continue
            data = line[len(_DATA) :].strip()
            if data == b"[DONE]":
                return
            if pcm := _pcm(data):
                yield pcm
    raise ServerFailedError("the server behind ended its stream early")


def _pcm(data: bytes) -> bytes:
    try:
        event = json.loads(data)
        if error := event.get("error"):
            message = error.get("message") if isinstance(error, dict) else error
            raise ServerFailedError(f"the server behind failed: {str(message)[:500]}")
        pcm = b""
        for choice in event.get("choices", ()):
            audio = (choice.get("delta") or {}).get("audio") or {}
            if encoded := audio.get("data"):
                pcm += base64.b64decode(encoded, validate=True)
    except (ValueError, AttributeError, TypeError, binascii.Error) as error:
        if isinstance(error, ServerFailedError):
            raise
        raise ServerFailedError("the server behind sent an event that cannot be read") from None
    return pcm
