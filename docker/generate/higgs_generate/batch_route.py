"""POST /generate/batch: several texts in one request."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

from higgs_patches.lib.audio.containers import EncodingError
from higgs_patches.lib.errors import RefusedError
from starlette.types import ASGIApp

from higgs_generate import generate_request
from higgs_generate.endpoint import Call
from higgs_generate.speech_routes import json_answer

MOST = 32
"""Texts in a batch."""
MOST_CHARACTERS = 20_000
"""Characters of all texts: the answer holds their sound, about 1,500 s of it."""


async def batch(call: Call) -> ASGIApp:
    """Answer with the sound of all texts, or the error of each."""
    items = _items(await call.body())
    call.service.places.require_room(len(items))
    tasks = [asyncio.create_task(_one(call, number, item)) for number, item in enumerate(items)]
    try:
        results = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    successful = sum(result["success"] for result in results)
    return json_answer(
        {
            "results": results,
            "total": len(results),
            "successful": successful,
            "failed": len(results) - successful,
        }
    )


def _items(body: bytes) -> list[Any]:
    try:
        items = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"the body is not JSON: {error}") from None
    if isinstance(items, dict):
        items = items.get("requests")
    if not isinstance(items, list) or not 0 < len(items) <= MOST:
        raise RefusedError(f"expected a list of 1 to {MOST} requests", "requests")
    texts = [item.get("text") for item in items if isinstance(item, dict)]
    length = sum(len(text) for text in texts if isinstance(text, str))
    if length > MOST_CHARACTERS:
        raise RefusedError(
            f"the texts of a batch have {length} characters; {MOST_CHARACTERS} are possible",
            "text",
        )
    return items


async def _one(call: Call, number: int, item: Any) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        if not isinstance(item, dict):
            raise RefusedError(f"requests[{number}] is not an object")
        fields = generate_request.read(item, MOST_CHARACTERS)
        speech = await call.service.speech_of(fields)
        content, samples = await call.service.speaker.whole(speech, f"{call.id}-{number}")
    except (RefusedError, EncodingError) as error:
        param = getattr(error, "param", None)
        return {"index": number, "success": False, "error": str(error), "param": param}
    call.counter.samples += samples
    return {
        "index": number,
        "success": True,
        "audio_base64": base64.b64encode(content).decode(),
        "generation_time": round(time.perf_counter() - began, 3),
        "duration": round(samples / 24_000, 3),
    }
