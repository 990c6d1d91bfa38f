"""Answers with sound: a stream, or a whole file with what it took; and their headers."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence

from higgs_patches.lib.audio import SAMPLE_RATE
from higgs_patches.lib.audio.containers import EncodingError
from higgs_patches.lib.errors import RefusedError
from starlette.types import Receive, Scope, Send

log = logging.getLogger("higgs_generate")


def late_headers(began: float, samples: int | None) -> dict[str, str]:
    """Return the headers that wait for a whole file, or for the first sound of a stream.

    Args:
        began: when the request came, by time.perf_counter.
        samples: length of the sound; None: of a stream.
    """
    took = time.perf_counter() - began
    headers = {"X-Generation-Time": f"{took:.3f}"}
    if samples is not None:
        seconds = samples / SAMPLE_RATE
        headers["X-Audio-Duration"] = f"{seconds:.3f}"
        headers["X-RTF"] = f"{took / seconds:.3f}" if seconds else "0"
    return headers


def encode(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI has them."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


_NEVER_HELD = encode({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
"""Headers for caches and proxies."""


class SoundStream:
    """ASGI application that sends sound as it comes; a failure cuts the connection.

    Args:
        first: the first chunk.
        rest: the other ones.
        headers: the media type, and further headers.
    """

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        headers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        self._first = first
        self._rest = rest
        self._headers = [*headers, *_NEVER_HELD]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        del scope, receive
        async with contextlib.aclosing(self._rest):
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            try:
                async for chunk in self._rest:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except (RefusedError, EncodingError) as error:
                # Without the end of the body: the server closes the connection then.
                log.warning("an answer broke off: %s", error)
                return
        await send({"type": "http.response.body", "body": b""})


class SampleCounter:
    """Counts the samples of PCM that passes through.

    Attributes:
        samples: so far.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._bytes = 0

    def add(self, size: int, speed: float = 1.0) -> None:
        """Count bytes of PCM as they are at a speed."""
        self._bytes += size
        self.samples = round(self._bytes // 2 / speed)

    async def through(
        self, pcm: AsyncGenerator[bytes, None], speed: float = 1.0
    ) -> AsyncGenerator[bytes, None]:
        """Give the chunks unchanged, and count them."""
        async with contextlib.aclosing(pcm):
            async for chunk in pcm:
                self.add(len(chunk), speed)
                yield chunk
