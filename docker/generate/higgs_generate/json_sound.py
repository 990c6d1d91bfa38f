"""Sound as base64 in JSON, in memory that does not grow with its length."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from typing import Any


async def json_parts(
    sound: AsyncGenerator[bytes, None], more: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """Give the bytes of an object with `audio_base64` and other members."""
    yield b'{"audio_base64":"'
    rest = b""
    async for chunk in sound:
        chunk = rest + chunk
        whole = len(chunk) // 3 * 3
        rest = chunk[whole:]
        yield base64.b64encode(chunk[:whole])
    yield base64.b64encode(rest) + b'",' + json.dumps(more).encode()[1:]
