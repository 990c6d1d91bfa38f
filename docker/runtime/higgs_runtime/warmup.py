"""Warms the server up: asks its application for speech before a client can connect.

Whatever is loaded, imported or compiled on a first request is then done: the processor with its
audio tokenizer, resampling, the audio encoders, the codec's kernels, the voices' recordings.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from higgs_runtime.control import API_KEY, WARMUP

TEXT = "Hello, this is a test."
TOKENS = 64
"""Longest answer to a request of the warm-up: 2.6 s of audio."""
LONG_TEXT = (
    f"{TEXT} It goes on for longer than the others, sentence after sentence, until whoever listens "
    "is some seconds behind and the pieces of sound have become as long as they ever will. That "
    "is the case by now, so this is the end of it."
)
LONG_TOKENS = 500
"""The same for the first request: its pieces of audio grow to the longest ones, for each of whose
lengths the GPU's libraries choose their kernels when it first occurs."""
FORMATS = ("pcm", "wav", "mp3")
MOST_VOICES = 16
"""More voices are not warmed up: a folder may hold hundreds."""

log = logging.getLogger("vllm.higgs_runtime")

App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


async def warm_up(app: App, application: object) -> None:
    """Request speech until every format and voice has been used once, within a time limit.

    A failure is logged and does not prevent the start: the first request will report the same.

    Args:
        app: the next ASGI application.
        application: the value of `app` in a request's scope.
    """
    limit = float(os.environ.get(WARMUP) or 0)
    if limit <= 0:
        return
    server = logging.getLogger("vllm")
    level = server.level
    server.setLevel(logging.WARNING)  # hides the log lines about these requests
    started = time.monotonic()
    took: list[str] = []
    problem = ""
    try:
        async with asyncio.timeout(limit):
            await _speak(app, application, took)
    except TimeoutError:
        problem = f"did not finish within {limit:.0f} s, the first requests will be slower"
    except Exception as error:
        problem = f"failed, the first requests will be slower: {error}"
    finally:
        server.setLevel(level)
    if problem:
        log.warning("warm-up %s", problem)
    else:
        log.info("warm-up took %.1f s (%s)", time.monotonic() - started, ", ".join(took))


async def _speak(app: App, application: object, took: list[str]) -> None:
    """Request each format in one voice, then the other voices concurrently."""
    model = (await _json(app, application, "/v1/models"))["data"][0]["id"]
    first, *others = _voices(await _json(app, application, "/v1/audio/voices"))

    async def say(voice: str, response_format: str, text: str = TEXT, tokens: int = TOKENS) -> None:
        request = {
            "model": model,
            "voice": voice,
            "input": text,
            "response_format": response_format,
            "max_tokens": tokens,
        }
        await _ask(app, application, "POST", "/v1/audio/speech", request)

    started = time.monotonic()
    await say(first, FORMATS[0], LONG_TEXT, LONG_TOKENS)
    took.append(f"{FORMATS[0]} {time.monotonic() - started:.1f} s")
    for response_format in FORMATS[1:]:
        started = time.monotonic()
        await say(first, response_format)
        took.append(f"{response_format} {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    await asyncio.gather(*(say(voice, FORMATS[0]) for voice in others[: MOST_VOICES - 1]))
    took.append(f"{len(others)} more voices {time.monotonic() - started:.1f} s")


def _voices(answer: Any) -> list[str]:
    """Return the voices with a recording, which is encoded on their first request."""
    entries = answer["voices"] if isinstance(answer, dict) else answer
    plain = [x if isinstance(x, dict) else {"id": x} for x in entries]
    recorded = [x["id"] for x in plain if x.get("kind", "recording") == "recording"]
    return recorded or [x["id"] for x in plain[:1]]


async def _json(app: App, application: object, path: str) -> Any:
    return json.loads(await _ask(app, application, "GET", path))


async def _ask(
    app: App, application: object, method: str, path: str, value: object = None
) -> bytes:
    """Send a request to the application without a connection.

    Raises:
        RuntimeError: the status is not 200.
    """
    body = b"" if value is None else json.dumps(value).encode()
    headers = [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ]
    if key := os.environ.get(API_KEY):
        headers.append((b"authorization", b"Bearer " + key.encode()))
    scope: MutableMapping[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
        "app": application,
    }
    requests = [{"type": "http.request", "body": body, "more_body": False}]
    status = 0
    chunks: list[bytes] = []

    async def receive() -> MutableMapping[str, Any]:
        if requests:
            return requests.pop()
        await asyncio.Event().wait()  # the client does not disconnect
        raise AssertionError("unreachable")

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            chunks.append(message.get("body", b""))

    await app(scope, receive, send)
    answer = b"".join(chunks)
    if status != 200:
        raise RuntimeError(f"{path} answered {status}: {answer[:300].decode(errors='replace')}")
    return answer
