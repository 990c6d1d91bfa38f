"""Recordings by URL: fetched under the server's own rules, once, and kept for the next request."""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from dataclasses import replace

from higgs_patches.lib.errors import RefusedError
from higgs_patches.patches.media import fetch

from higgs_generate.speech import Speech

KEPT_BYTES = 64 * 2**20
"""Recordings in memory, in base64."""


class ReferenceCache:
    """Recordings by URL; several requests for the same one wait for one download."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._running: dict[str, asyncio.Task[str]] = {}

    async def with_recording(self, speech: Speech, url: str) -> Speech:
        """Return the speech with the recording behind a URL.

        Raises:
            RefusedError: its host is not allowed, or it is not a usable file.
        """
        return replace(speech, reference_audio=await self._get(url))

    async def _get(self, url: str) -> str:
        if url in self._kept:
            self._kept.move_to_end(url)
            return self._kept[url]
        if url not in self._running:
            task = asyncio.create_task(self._fetch(url))
            self._running[url] = task
            task.add_done_callback(lambda _: self._running.pop(url, None))
        try:
            # Others may wait for the same download: one that hangs up does not end it.
            return await asyncio.shield(self._running[url])
        except ValueError as error:
            raise RefusedError(f"voice_url: {error}", "voice_url") from None

    async def _fetch(self, url: str) -> str:
        audio = base64.b64encode(await fetch(url)).decode()
        self._kept[url] = audio
        while sum(map(len, self._kept.values())) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return audio
