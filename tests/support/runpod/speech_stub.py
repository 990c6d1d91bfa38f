"""A small server of speech, as a container of the image is: paced PCM, every format, an API key.

It speaks a voice-like sound, so that the limits for real weights hold. Routes and refusals are
those of the fake fork's server.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from types import ModuleType
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from higgs_image.audio import SAMPLE_RATE
from higgs_image.smoke import limits
from higgs_image.workspace import PROJECT

Samples = npt.NDArray[np.int16]


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


def wav(samples: Samples) -> bytes:
    """Return samples as a WAV file."""
    data = samples.astype("<i2").tobytes()
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, SAMPLE_RATE,
        2 * SAMPLE_RATE, 2, 16, b"data", len(data),
    ) + data  # fmt: skip


@functools.lru_cache(maxsize=64)
def _encode(codec: str, container: str, pcm: bytes) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=SAMPLE_RATE, layout="mono")
        resampler = av.AudioResampler(
            format=stream.codec_context.format or "s16", layout="mono", rate=stream.rate
        )
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = SAMPLE_RATE
        fifo = av.AudioFifo()
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            part.pts = None
            fifo.write(part)
        size = stream.codec_context.frame_size or 1024
        while piece := fifo.read(size) or fifo.read(0, partial=True):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return buffer.getvalue()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "pcm": ("audio/pcm", bytes),
    "mp3": ("audio/mpeg", functools.partial(_encode, "libmp3lame", "mp3")),
    "flac": ("audio/flac", functools.partial(_encode, "flac", "flac")),
    "opus": ("audio/ogg", functools.partial(_encode, "libopus", "ogg")),
    "aac": ("audio/aac", functools.partial(_encode, "aac", "adts")),
}


@functools.cache
def _use_codecs() -> None:
    """Use each once, which takes a moment at the first time."""
    for _, encode in ENCODERS.values():
        encode(bytes(9_600))


def start(key: str = "", thinks: float = 0.0) -> ThreadingHTTPServer:
    """Start a server on a free port of this machine.

    Args:
        key: that requests must send, except for /ping and /health.
        thinks: seconds before it answers a request for speech.
    """
    fake = _fake_fork()
    _use_codecs()

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
