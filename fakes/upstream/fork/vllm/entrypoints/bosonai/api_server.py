"""A fake speech server with the real one's module path, flags and routes.

It shows that an image starts, answers and ends as the real one should. It loads no weights and
needs no GPU. It uses the standard library only, besides one module of each layer that proves the
image complete. The real server's middleware is built in: it answers /ping, tells the entrypoint
that it is ready, and finishes running requests when it is told to drain.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LARGEST_BODY = 1_000_000
LONGEST_TEXT = 4_096
MODEL = "higgs-audio-v2"

SLOWEST, FASTEST = 0.25, 4.0
HEADER = 44
"""Bytes before the samples of a WAV file."""
CHUNK, PAUSE = 24_000, 0.02
"""Bytes of a chunk of streamed PCM, half a second, and seconds of the pause after it."""

Speak = Callable[[str, str], bytes]
Encoders = Mapping[str, tuple[str, Callable[[bytes], bytes]]]


class BadRequest(Exception):
    """The client asked for something that cannot be answered (400)."""


class Server(ThreadingHTTPServer):
    """The HTTP server.

    Args:
        address: host and port; port 0 takes a free one.
        speak: turns a text and a voice into a WAV file.
        voices: name to transcript.
        version: answer of /version.
        model: name in /v1/models.
        encoders: formats besides wav: Content-Type and encoder.
    """

    daemon_threads = True
    request_queue_size = 128  # the smoke test's listeners connect at once
    allow_reuse_port = True  # the entrypoint answers on the port until this server does

    def __init__(
        self,
        address: tuple[str, int],
        speak: Speak,
        voices: Mapping[str, str],
        version: Mapping[str, str],
        model: str = MODEL,
        encoders: Encoders | None = None,
    ) -> None:
        super().__init__(address, Handler)
        self.speak, self.voices, self.version, self.model = speak, voices, version, model
        self.encoders = dict(encoders or {})
        self.draining, self.running = False, 0
        self._companion = os.environ.pop("HIGGS_COMPANION_TOKEN", "")
        self._changed = threading.Condition()

    def begin(self, token: str | None) -> bool:
        """Count a request as running; False while draining, unless /generate sends it."""
        with self._changed:
            accepted = not self.draining or bool(token and token == self._companion)
            self.running += accepted
            return accepted

    def finish(self) -> None:
        """Count a request as finished."""
        with self._changed:
            self.running -= 1
            self._changed.notify_all()

    def follow(self, control: socket.socket) -> None:
        """Report readiness; when told to drain, refuse requests and report when none runs."""
        control.sendall(b"ready\n")
        while command := control.recv(64):
            if b"drain" not in command:
                continue
            with self._changed:
                self.draining = True
                self._changed.wait_for(lambda: self.running == 0)
            control.sendall(b"drained\n")


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """Answer /ping, /health, /metrics, /version, /v1/models and /v1/audio/voices."""
        path = self.path.partition("?")[0]
        if path == "/ping":
            self._json(503 if self.server.draining else 200, {})
        elif path == "/health":
            self._send(200, b"", "text/plain")
        elif path == "/metrics":
            self._send(200, b"vllm:num_preemptions_total 0.0\n", "text/plain")
        elif path == "/version":
            self._json(200, dict(self.server.version))
        elif path == "/v1/models":
            model = {"id": self.server.model, "object": "model", "owned_by": "fake-fork"}
            self._json(200, {"object": "list", "data": [model]})
        elif path == "/v1/audio/voices":
            self._json(200, {"voices": sorted(self.server.voices)})
        else:
            self._error(404, f"there is no {path}")

    def do_POST(self) -> None:
        """Answer /v1/audio/speech."""
        if not self.server.begin(self.headers.get("X-Higgs-Companion")):
            self.close_connection = True
            self._error(503, "the server is ending")
            return
        try:
            body = self._body()
            if self.path.partition("?")[0] != "/v1/audio/speech":
                self._error(404, f"there is no {self.path}")
                return
            text, voice, form = self._request(body)
            self._speech(self.server.speak(text, voice), form)
        except BadRequest as error:
            self._error(400, str(error))
        finally:
            self.server.finish()

    def _body(self) -> bytes:
        try:
            length = int(self.headers.get("Content-Length") or "")
        except ValueError:
            length = -1
        if not 0 <= length <= LARGEST_BODY:
            self.close_connection = True  # what follows the headers cannot be skipped
            raise BadRequest(f"Content-Length must be between 0 and {LARGEST_BODY}")
        return self.rfile.read(length)

    def _speech(self, wav: bytes, form: str) -> None:
        """Send a sound in a format; raw samples are streamed in chunks."""
        if form == "wav":
            self._send(200, wav, "audio/wav")
            return
        kind, encode = self.server.encoders[form]
        if form != "pcm":
            self._send(200, encode(wav[HEADER:]), kind)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(HEADER, len(wav), CHUNK):
            chunk = wav[start : start + CHUNK]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            time.sleep(PAUSE)
        self.wfile.write(b"0\r\n\r\n")

    def _request(self, body: bytes) -> tuple[str, str, str]:
        """Return text, voice and format of a request for speech."""
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from None
        if not isinstance(request, dict):
            raise BadRequest("the body is not a JSON object")
        text, voice = request.get("input"), request.get("voice", next(iter(self.server.voices)))
        if not isinstance(text, str) or not text.strip():
            raise BadRequest("input must be text that is not blank")
        if len(text) > LONGEST_TEXT:
            raise BadRequest(
                f"expected at most {LONGEST_TEXT} characters of input, got {len(text)}"
            )
        if not isinstance(voice, str) or voice not in self.server.voices:
            raise BadRequest(f"voice {voice!r} is unknown; there are {sorted(self.server.voices)}")
        known = ["wav", *self.server.encoders]
        form, speed = request.get("response_format", "wav"), request.get("speed", 1.0)
        if form not in known:
            raise BadRequest(f"response_format {form!r} is unknown; there are {known}")
        if not isinstance(speed, int | float) or not SLOWEST <= speed <= FASTEST:
            raise BadRequest(f"speed must be between {SLOWEST} and {FASTEST}")
        if (model := request.get("model", self.server.model)) != self.server.model:
            raise BadRequest(f"model {model!r} is unknown; there is {self.server.model!r}")
        return text, voice, form

    def _json(self, status: int, value: dict[str, Any]) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _error(self, status: int, message: str) -> None:
        kind = {400: "BadRequestError", 404: "NotFoundError"}.get(status, "ServerError")
        self._json(status, {"object": "error", "message": message, "type": kind, "code": status})

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def load_voices(folder: Path) -> dict[str, str]:
    """Read the voice presets; every one must have its sound file.

    Raises:
        FileNotFoundError: a preset's sound is missing.
    """
    presets = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name, preset in presets.items():
        if not (folder / preset["audio_file"]).is_file():
            raise FileNotFoundError(f"voice {name}: {folder / preset['audio_file']}")
    return {name: preset["transcript"] for name, preset in presets.items()}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the few flags that matter here; the real server's other flags are ignored."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 (as the real server)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", default=MODEL)
    parser.add_argument("--voice-presets-dir", type=Path)
    return parser.parse_known_args(arguments)[0]


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    options = parse(arguments)
    # One module from each layer of the image: wheel, fork, submodule, packages.
    tone = importlib.import_module("boson_multimodal.audio_processing.tone")
    files = importlib.import_module("boson_multimodal.audio_processing.files")
    version = {
        "version": importlib.metadata.version("vllm"),
        "origin": importlib.import_module("vllm.origin").ORIGIN,
        "python": ".".join(map(str, sys.version_info[:3])),
    }
    for package in ("iniconfig", "six"):
        importlib.import_module(package)
        version[package] = importlib.metadata.version(package)
    voices = load_voices(Path(__file__).with_name("voice_presets"))
    if options.voice_presets_dir:
        voices |= load_voices(options.voice_presets_dir)
    address, name = (options.host, options.port), options.served_model_name
    with Server(address, tone.speak, voices, version, name, files.ENCODERS) as server:

        def end(*_: object) -> None:
            threading.Thread(target=server.shutdown).start()  # it waits for serve_forever to end

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        if number := os.environ.pop("HIGGS_CONTROL_FD", ""):
            control = socket.socket(fileno=int(number))
            threading.Thread(target=server.follow, args=(control,), daemon=True).start()
        print("GPU KV cache size: 60,000 tokens", flush=True)  # what the real server logs
        print(f"listening on {options.host}:{server.server_port}", flush=True)
        server.serve_forever(poll_interval=0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
