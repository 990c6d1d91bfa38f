"""The server's voices, and a short sample of each."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from higgs_patches.lib.errors import RefusedError

from higgs_generate import failures
from higgs_generate.failures import ServerFailedError
from higgs_generate.server_client import ServerClient
from higgs_generate.speaker import Speaker
from higgs_generate.speech import DEFAULT_VOICE, Speech

SAMPLES = {
    "zh": "你好。这是我的声音。今天天气很好。",
    "en": "Hello, this is my voice. It is a fine day today.",
}
"""What is said, by the first letters of a voice's name."""
MOST_SAMPLES = 64
FORMAT = "mp3"


class VoiceList:
    """Lists the voices and makes their samples, once for each.

    Args:
        client: the server.
        speaker: speaks the samples.
    """

    def __init__(self, client: ServerClient, speaker: Speaker) -> None:
        self._client = client
        self._speaker = speaker
        self._samples: dict[str, bytes] = {}
        self._turn = asyncio.Lock()

    async def list(self) -> dict[str, Any]:
        """Return the body of GET /voices.

        Raises:
            RefusedError: the server does not name its voices.
        """
        status, body = await self._client.get("/v1/audio/voices")
        if status != 200:
            raise failures.from_server(status, body, None)
        try:
            entries = body["voices"] if isinstance(body, dict) else body
            voices = [_entry(x if isinstance(x, dict) else {"id": x}) for x in entries]
        except (TypeError, KeyError):
            raise ServerFailedError("the server behind does not list its voices") from None
        default = next((x["id"] for x in voices if DEFAULT_VOICE in x["aliases"]), None)
        return {"voices": voices, "default": default or (voices[0]["id"] if voices else None)}

    async def is_description(self, name: str) -> bool:
        """Return whether a voice is described in words: it differs from request to request.

        Raises:
            RefusedError: the server does not name its voices.
        """
        for voice in (await self.list())["voices"]:
            if name == voice["id"] or name in voice["aliases"]:
                return bool(voice["kind"] == "description")
        return False  # the server will refuse it

    async def sample(self, name: str, request_id: str) -> bytes:
        """Return a sample of a voice, as an mp3 file.

        Raises:
            RefusedError: there is no such voice, or it cannot be spoken.
        """
        if name not in self._samples:
            async with self._turn:
                if name not in self._samples:
                    await self._make(name, request_id)
        return self._samples[name]

    async def _make(self, name: str, request_id: str) -> None:
        if name not in [voice["id"] for voice in (await self.list())["voices"]]:
            raise RefusedError(f"there is no voice {name[:60]!r}", "voice", HTTPStatus.NOT_FOUND)
        text = SAMPLES["zh" if name.startswith("zh") else "en"]
        sampling = {"temperature": 0.5, "seed": 1}
        speech = Speech(text, voice=name, sampling=sampling, response_format=FORMAT)
        content, _ = await self._speaker.whole(speech, request_id)
        if len(self._samples) >= MOST_SAMPLES:
            self._samples.pop(next(iter(self._samples)))
        self._samples[name] = content


def _entry(voice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(voice["id"]),
        "name": str(voice.get("name") or voice["id"]),
        "kind": str(voice.get("kind", "recording")),
        "aliases": [str(x) for x in voice.get("aliases", ())],
        "preview": f"voices/{quote(str(voice['id']), safe='')}/preview",
    }
