"""Recordings by URL: fetched under the server's own rules, once, and kept on disk for a day."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from higgs_patches.lib.errors import RefusedError
from higgs_patches.patch_settings import ALLOWED_MEDIA_HOSTS
from higgs_patches.patches.media import fetch

from higgs_generate.speech import Speech

log = logging.getLogger("higgs_generate")

KEPT_SECONDS = 24 * 3600
KEPT_BYTES = 256 * 2**20


class ReferenceCache:
    """Recordings by URL; several requests for the same one wait for one download.

    Args:
        folder: where they are kept, also for a later process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, asyncio.Task[str]] = {}

    async def with_recording(self, speech: Speech, url: str) -> Speech:
        """Return the speech with the recording behind a URL.

        Raises:
            RefusedError: its host is not allowed, or it is not a usable file.
        """
        if not ALLOWED_MEDIA_HOSTS.read():
            raise RefusedError(
                "voice_url is off on this server: send the recording itself, as "
                "reference_audio_base64 (the server's owner can allow hosts by "
                f"{ALLOWED_MEDIA_HOSTS.variable})",
                "voice_url",
            )
        return replace(speech, reference_audio=await self._get(url))

    async def _get(self, url: str) -> str:
        if url not in self._running:
            task = asyncio.create_task(self._load(url))
            self._running[url] = task
            task.add_done_callback(lambda _: self._running.pop(url, None))
        try:
            # Others may wait for the same download: one that hangs up does not end it.
            return await asyncio.shield(self._running[url])
        except ValueError as error:
            raise RefusedError(f"voice_url: {error}", "voice_url") from None

    async def _load(self, url: str) -> str:
        # With other allowed hosts it is another file: what is no longer allowed is not found.
        key = repr((sorted(ALLOWED_MEDIA_HOSTS.read()), url))
        path = self._folder / hashlib.sha256(key.encode()).hexdigest()
        audio = await asyncio.to_thread(_read, path)
        if audio is None:
            audio = await fetch(url)
            await asyncio.to_thread(_keep, path, audio)
        return base64.b64encode(audio).decode()


def _read(path: Path) -> bytes | None:
    try:
        if time.time() - path.stat().st_mtime < KEPT_SECONDS:
            return path.read_bytes()
    except OSError:
        pass
    return None


def _keep(path: Path, audio: bytes) -> None:
    """Write a file as a whole, and delete the oldest ones if all take too much."""
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(audio)
        Path(file.name).replace(path)
        size = 0
        for one in sorted(folder.iterdir(), key=lambda x: x.stat().st_mtime, reverse=True):
            size += one.stat().st_size
            if size > KEPT_BYTES:
                one.unlink()
    except OSError as error:  # it is fetched again then
        log.warning("a recording cannot be kept: %s", error)
