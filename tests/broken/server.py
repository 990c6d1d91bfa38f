"""Runs in a container: the image's own server behind a proxy that breaks it in one way.

    python3 server.py FAULT COMMAND [ARGUMENTS]

COMMAND is the image's entrypoint; it is told by PORT to serve elsewhere. A fault that needs no
start of its own can be exchanged for another while it runs: by its name in SWITCH. Standard library
only.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT, BEHIND = 8000, 8001
FAULT, COMMAND = sys.argv[1], sys.argv[2:]
SWITCH = Path("/fault")

ALL = ("pcm", "wav", "mp3", "flac", "opus", "aac")
SPOILED = {
    "zero-bytes": ALL,
    "header-only": ("wav",),
    "silent": ("pcm", "wav"),
    "two-files": ("wav",),
    "wrong-rate": ("wav",),
    "cut-short": ("wav",),
    "first-word": ("pcm", "wav"),
    "in-one-piece": ALL,
}
"""Faults of the sound itself, and in which formats; all other answers go through as they come."""


def fault() -> str:
    """Return which fault there is now."""
    with suppress(OSError):
        return SWITCH.read_text().strip()
    return FAULT


class Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    running, refused = 0, ""
    changing = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.pass_on(b"")

    def do_POST(self) -> None:
        with self.server.changing:
            self.server.running += 1
        if fault() == "breaks-under-load":
            time.sleep(0.5)  # until all that come at once are there
        try:
            self.pass_on(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        finally:
            with self.server.changing:
                self.server.running -= 1

    def pass_on(self, body: bytes) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", BEHIND, timeout=300)
        try:
            headers = {"Content-Type": self.headers.get("Content-Type", "")} if body else {}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            status, kind = answer.status, answer.headers.get("Content-Type", "")
            if self.path != "/v1/audio/speech" or status != 200:
                self.give(*plain_fault(self, status, kind, answer.read()))
            else:
                self.speak(answer, kind, json.loads(body).get("response_format", "pcm"))
        except OSError:
            self.give(503, "application/json", b"{}")
        finally:
            connection.close()

    def give(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def speak(self, answer: http.client.HTTPResponse, kind: str, form: str) -> None:
        now = fault()
        if now == "wrong-type":
            kind = "audio/mpeg"
        if now == "speech-500" or (now == "breaks-under-load" and self.server.running > 4):
            self.give(500, "application/json", b'{"error": {"message": "broken"}}')
        elif now == "hangs":
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(answer.read(1))
            time.sleep(600)
        elif form in SPOILED.get(now, ()):
            self.give(200, kind, sound_fault(now, answer.read(), form))
        else:
            self.stream(answer, kind)
        if now == "dies-after-first":
            self.wfile.flush()
            os._exit(1)

    def stream(self, answer: http.client.HTTPResponse, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := answer.read1(1 << 16):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def plain_fault(handler: Handler, status: int, kind: str, body: bytes) -> tuple[int, str, bytes]:
    """Change an answer that holds no sound."""
    path, server, now = handler.path, handler.server, fault()
    if 400 <= status < 500:
        server.refused = now
        if now == "accepts-anything":
            return 200, "audio/wav", b"RIFF"
    if now == "sick-afterwards" == server.refused and path == "/health":
        return 503, "application/json", b"{}"
    if now == "no-voices" and path == "/v1/audio/voices":
        return 200, kind, b"[]"
    if now == "other-model" and path == "/v1/models":
        return 200, kind, body.replace(b"higgs-audio-v2", b"something-else")
    return status, kind, body


def sound_fault(now: str, body: bytes, form: str) -> bytes:
    """Change a whole sound file."""
    start = body.find(b"data") + 8 if form == "wav" else 0
    if now == "zero-bytes":
        return b""
    if now == "silent":
        return body[:start] + bytes(len(body) - start)
    if now == "first-word":
        return wav(body[start : start + 16_000]) if form == "wav" else body[:16_000]
    if now == "header-only":
        return wav(b"")
    if now == "two-files":
        return wav(body[start:]) * 2
    if now == "wrong-rate":
        return wav(body[start:], rate=16_000)
    if now == "cut-short":
        return wav(body[start:])[: len(body) // 2]
    return body


def wav(samples: bytes, rate: int = 24_000) -> bytes:
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    return b"".join((
        b"RIFF", struct.pack("<I", 36 + len(samples)), b"WAVEfmt ", struct.pack("<I", 16), form,
        b"data", struct.pack("<I", len(samples)), samples,
    ))  # fmt: skip


def main() -> int:
    if FAULT == "does-not-start":
        print("Traceback (most recent call last):\nRuntimeError: broken on purpose", flush=True)
        return 1
    environment = os.environ | {"PORT": str(BEHIND)}
    if FAULT == "no-custom-voice":
        environment.pop("HIGGS_VOICES_DIR", None)
    child = subprocess.Popen(COMMAND, env=environment)

    def end(*_: object) -> None:
        if FAULT != "ignores-sigterm":
            child.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=spin, daemon=True).start()
    proxy = Proxy(("", PORT), Handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    return child.wait()


def spin() -> None:
    while True:
        busy = fault() == "busy"
        sum(range(100_000 if busy else 0))
        time.sleep(0.001 if busy else 0.5)


if __name__ == "__main__":
    sys.exit(main())
