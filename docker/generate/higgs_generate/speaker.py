"""Speaks a text that is not split: as a stream, or as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from higgs_patches.lib.audio import containers

from higgs_generate.places import Places
from higgs_generate.server_client import ServerClient
from higgs_generate.sound_answer import SampleCounter
from higgs_generate.speech import Speech


class Speaker:
    """Speaks single texts.

    Args:
        client: the server.
        places: bounds how many are spoken at once.
    """

    def __init__(self, client: ServerClient, places: Places) -> None:
        self._client = client
        self._places = places

    async def stream(
        self, speech: Speech, request_id: str, counter: SampleCounter
    ) -> AsyncGenerator[bytes, None]:
        """Give the file as it comes; as the server encodes it, where it can.

        Raises:
            RefusedError: it cannot be spoken.
        """
        async with self._places:
            header, plain = b"", _is_plain(speech)
            if plain:
                sound = self._client.pcm(speech, request_id)
                if speech.response_format == "wav":
                    header = containers.wav_header()
            elif speech.needs_chat:
                pcm = counter.through(self._client.pcm(speech, request_id), speech.speed)
                sound = containers.stream(pcm, speech.response_format, speed=speech.speed)
            else:
                sound = self._client.file(speech, request_id)
            async with contextlib.aclosing(sound):
                async for chunk in sound:
                    if plain:
                        counter.add(len(chunk))
                    yield header + chunk
                    header = b""

    async def whole(self, speech: Speech, request_id: str) -> tuple[bytes, int]:
        """Return the whole file, and the samples in it.

        Raises:
            RefusedError: it cannot be spoken.
        """
        async with self._places:
            pcm = bytearray()
            async with contextlib.aclosing(self._client.pcm(speech, request_id)) as chunks:
                async for chunk in chunks:
                    pcm += chunk
        content = await containers.whole(bytes(pcm), speech.response_format, speed=speech.speed)
        return content, round(len(pcm) // 2 / speech.speed)


def _is_plain(speech: Speech) -> bool:
    """Return whether the file is the server's PCM, with a header at most."""
    return speech.response_format in ("pcm", "wav") and speech.speed == 1.0
