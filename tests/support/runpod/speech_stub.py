"""A small server of speech, as a container of the image is: paced PCM, every format, an API key.

It speaks a voice-like sound, so that the limits for real weights hold. Routes and refusals are
those of the fake fork's server.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from types import ModuleType

import numpy as np

from higgs_image.audio import SAMPLE_RATE
from higgs_image.smoke import limits
from higgs_image.smoke.sound import wav
from higgs_image.workspace import PROJECT
from tests.support.sound import encoded


@functools.cache
def _fake_fork() -> ModuleType:
    path = PROJECT / "fakes/upstream/fork/vllm/entrypoints/bosonai/api_server.py"
    spec = importlib.util.spec_from_file_location("fake_api_server", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_api_server"] = module
    spec.loader.exec_module(module)
    return module


_turn = threading.Lock()


def speak(text: str, voice: str) -> bytes:
    """Return what `_spoken` returns, which is made once for all who ask at the same time."""
    with _turn:
        return _spoken(text, voice)


@functools.lru_cache(maxsize=64)
def _spoken(text: str, voice: str) -> bytes:
    """Return a WAV file of syllables whose pitch depends on text and voice."""
    moments = np.arange(int(limits.expected_seconds(text) * SAMPLE_RATE)) / SAMPLE_RATE
    seed = hashlib.sha256(f"{voice} {text}".encode()).digest()[0]
    pitch = 120 + seed / 4
    harmonics = sum(np.sin(2 * np.pi * pitch * n * moments) / n for n in range(1, 12))
    swell = 0.15 + np.abs(np.sin(2 * np.pi * 2 * moments))
    return wav((5_000 * swell * harmonics).clip(-32_000, 32_000).astype("<i2"))


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "pcm": ("audio/pcm", bytes),
    "mp3": ("audio/mpeg", functools.partial(encoded, "mp3")),
    "flac": ("audio/flac", functools.partial(encoded, "flac")),
    "opus": ("audio/ogg", functools.partial(encoded, "opus")),
    "aac": ("audio/aac", functools.partial(encoded, "aac")),
}


def start(key: str = "", thinks: float = 0.0) -> ThreadingHTTPServer:
    """Start a server on a free port of this machine.

    Args:
        key: that requests must send, except for /ping and /health.
        thinks: seconds before it answers a request for speech.
    """
    fake = _fake_fork()
    for _, encode in ENCODERS.values():
        encode(bytes(9_600))  # the first use of a codec takes a moment

    class Handler(fake.Handler):  # type: ignore[misc, name-defined]
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self._may():
                super().do_GET()

        def do_POST(self) -> None:
            if self._may():
                time.sleep(thinks)
                super().do_POST()

        def _may(self) -> bool:
            open_path = self.path in ("/ping", "/health")
            if open_path or not key or self.headers.get("Authorization") == f"Bearer {key}":
                return True
            self.close_connection = True
            self._error(401, "the API key is missing or wrong")
            return False

    server: ThreadingHTTPServer = fake.Server(
        ("127.0.0.1", 0), speak, {"belinda": "", "chadwick": ""}, {}, encoders=ENCODERS
    )
    server.RequestHandlerClass = Handler
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server
