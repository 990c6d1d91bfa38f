"""Read, check, reload and list the voices that a request can ask for.

The fork reads its voices in a loop without a pause, which keeps one CPU core busy. It only
notices a voice that cannot be used when a request asks for it, answers 500 then, and speaks with
another voice when it does not know a name.

Instead the voices are read before the server takes requests (`lib.voices.library`), and again every
`--voice-presets-refresh-interval` seconds if a file has changed (0: never). `--voice-presets-dir`
names a directory of custom voices, which are added to the shipped ones.

GET /v1/audio/voices answers as Open WebUI and other clients of OpenAI's API read it:

    {"voices": [{"id": "en_woman", "name": "en_woman", "kind": "recording", "aliases": ["alloy"]}]}

and GET /v1/audio/voices?format=names with a plain list of names, as the server did before.
"""

from __future__ import annotations

import base64
import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from higgs_patches.lib.voices.library import VoiceLibrary
from higgs_patches.lib.voices.voice import Voice, Voices, resolve

log = logging.getLogger("vllm.higgs_patches.voices")

PATCH = {
    "title": "Read and check the voices once, and again only when they change",
    "issues": ["https://github.com/boson-ai/higgs-audio/issues/146"],
    "why": (
        "The thread that reloads the voices waits only after an error, so an idle server uses more "
        "than a whole CPU core. A voice whose file, transcript or audio is bad is noticed by the "
        "first request for it, as a 500, and the list of voices has a form that no client reads."
    ),
    "obsolete_when": (
        "load_voice_presets sleeps in every round and checks each voice, and get_audio_voices "
        "answers with an object."
    ),
    "targets": [
        {
            "file": "vllm/entrypoints/bosonai/serving_audio.py",
            "name": "load_voice_presets",
            "how": "replace",
            "with": "load_voice_presets",
            "sha256": "f3de508ace3adf7189ccca1b0b1be11e814693fbc2b313afd7af8710ebbba028",
        },
        {
            "file": "vllm/entrypoints/bosonai/serving_audio.py",
            "name": "HiggsAudioServingAudio.tts_voice_raw",
            "how": "replace",
            "with": "tts_voice_raw",
            "sha256": "2a7231d799e8e03ec85a11428b655407ffb10712a25bc2669f371d84dda622e1",
        },
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "init_app_state",
            "how": "wrap",
            "with": "with_voices",
            "sha256": "e34b5f5d544f90e941e326594814e5abcb174ffc083ed6a6a8b981f3c12402a9",
        },
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "get_audio_voices",
            "how": "wrap",
            "with": "listed",
            "sha256": "f7a8d7108ceb3d0d4d6f4ec546d7b286a883be7d178e6826302a560a8915c641",
        },
    ],
}


def with_voices(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Read the voices before the first request: `state.voice_presets` is then a `Voices`."""
    shipped = Path(inspect.getfile(original)).parent / "voice_presets"

    @functools.wraps(original)
    async def init_app_state(
        engine_client: Any, audio_tokenizer: Any, model_config: Any, state: Any, args: Any
    ) -> None:
        library = VoiceLibrary(Path(args.voice_presets_dir), shipped)
        library.refresh()
        if not library.voices:
            log.error("No voice can be used: %s", library.voices.problem)
        state.voice_library = library
        await original(engine_client, audio_tokenizer, model_config, state, args)
        state.voice_presets = library.voices

    return init_app_state


def load_voice_presets(state: Any, voice_presets_dir: str, interval: int = 10) -> None:
    """Keep the voices up to date, for as long as the process lives (runs in a thread).

    Args:
        state: the application's state, with the library that `with_voices` has put there.
        voice_presets_dir: not used: the library knows.
        interval: seconds between two looks at the files; 0 or less for none.
    """
    del voice_presets_dir
    while interval > 0:
        time.sleep(interval)
        try:
            if state.voice_library.refresh():
                state.voice_presets = state.voice_library.voices
        except Exception:
            log.exception("The voices could not be read again; they stay as they were")


def tts_voice_raw(
    self: Any, voice: str, voice_presets_dir: str, voice_presets: Voices
) -> tuple[str, str, str | None]:
    """Return what the server's own speech route needs of a voice: this patch works without others.

    Returns:
        A WAV file in base64, its transcript, and the system prompt if the voice has one.

    Raises:
        UnknownVoiceError: the voice is unknown; the route answers 400.
    """
    del self, voice_presets_dir
    found = resolve(voice_presets, voice)
    return base64.b64encode(found.audio).decode(), found.transcript, found.system_prompt


def listed(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Answer GET /v1/audio/voices."""

    @functools.wraps(original)
    async def get_audio_voices(raw_request: Any) -> Any:
        voices: Voices = raw_request.app.state.voice_presets
        if raw_request.query_params.get("format") == "names":
            return list(voices)
        return {"voices": [_entry(voice, voices) for voice in voices.values()]}

    return get_audio_voices


def _entry(voice: Voice, voices: Voices) -> dict[str, Any]:
    return {
        "id": voice.name,
        "name": voice.name,
        "kind": "description" if voice.system_prompt else "recording",
        "aliases": [alias for alias, name in voices.aliases.items() if name == voice.name],
    }
