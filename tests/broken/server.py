"""Runs in a container: the image's server behind a proxy that breaks it in one way.

    python3 server.py FAULT COMMAND [ARGUMENTS]

COMMAND is the image's entrypoint, which gets another PORT. The variable FAULT names another fault;
the file SWITCH changes it while the server runs. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from array import array
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT, BEHIND = 8000, 8001
FAULT, COMMAND = os.environ.get("FAULT", sys.argv[1]), sys.argv[2:]
SWITCH = Path("/fault")

ALL = ("pcm", "wav", "mp3", "flac", "opus", "aac")
RAW = ("pcm", "wav")
CHUNK = 24_000
"""Bytes of half a second of sound."""
SPOILED = {
    "zero-bytes": ALL,
    "double-speed": RAW,
    "constant": RAW,
    "tone": RAW,
    "noise": RAW,
    "clipped": RAW,
    "gap": RAW,
    "offset": RAW,
    "resampled": ("wav",),
    "previous": ("wav",),
    "same-text": RAW,
    "truncated": ("pcm",),
    "stereo": ("pcm",),
    "repeated-chunk": ("pcm",),
    "dropped-chunk": ("pcm",),
    "reversed-chunks": ("pcm",),
    "swapped-bytes": ("pcm",),
    "half-volume": ("pcm",),
    "header-only": ("wav",),
    "silent": ("pcm", "wav"),
    "two-files": ("wav",),
    "wrong-rate": ("wav",),
    "cut-short": ("wav",),
    "first-word": ("pcm", "wav"),
    "in-one-piece": ALL,
}
"""Faults of the sound itself, and their formats; all other answers pass unchanged."""


def fault() -> str:
    """Return the present fault."""
    with suppress(OSError):
        return SWITCH.read_text().strip()
    return FAULT


MOST_AT_ONCE = {"breaks-under-load": 4, "breaks-in-a-crowd": 9}
"""Faults under load, with the requests at once that are answered."""

LEAKED: list[bytes] = []
PREVIOUS: dict[str, bytes] = {}
"""The latest sound for each voice."""
BY_LENGTH: dict[tuple[str, int], bytes] = {}
"""The first sound for each voice and length of text."""


class Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    running, spoken, refused = 0, 0, ""
    changing = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.pass_on(b"")

    def do_POST(self) -> None:
        with self.server.changing:
            self.server.running += 1
        if fault() in MOST_AT_ONCE:
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
            if fault() == "wrong-voice":
                body = body.replace(b'"smoke-test"', json.dumps(first_voice()).encode())
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            status, kind = answer.status, answer.headers.get("Content-Type", "")
            if self.path != "/v1/audio/speech" or status != 200:
                self.give(*plain_fault(self, status, kind, answer.read()))
            else:
                self.speak(answer, kind, json.loads(body))
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

    def speak(self, answer: http.client.HTTPResponse, kind: str, request: dict[str, Any]) -> None:
        now, form = fault(), request.get("response_format", "pcm")
        if now == "leaks":
            LEAKED.append(os.urandom(10_000_000))
        if now == "slow-mp3" and form == "mp3":
            time.sleep(30)
        if now == "wrong-type":
            kind = "audio/mpeg"
        self.server.spoken += 1
        if now == "small-cache":
            print("GPU KV cache size: 9,000 tokens", flush=True)
        if now == "speech-500" or self.server.running > MOST_AT_ONCE.get(now, 1000):
            self.give(500, "application/json", b'{"error": {"message": "broken"}}')
        elif now == "hangs":
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(answer.read(1))
            time.sleep(600)
        elif form in SPOILED.get(now, ()):
            self.send_sound(kind, sound_fault(now, answer.read(), request), form)
        else:
            self.stream(answer, kind)
        if now == "dies-after-first":
            self.wfile.flush()
            os._exit(1)

    def send_sound(self, kind: str, body: bytes, form: str) -> None:
        """Send a changed sound, PCM in chunks as before unless that is the fault."""
        if form != "pcm" or fault() in ("in-one-piece", "zero-bytes"):
            self.give(200, kind, body)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(body), CHUNK):
            self.wfile.write(
                b"%x\r\n%b\r\n" % (len(body[start : start + CHUNK]), body[start : start + CHUNK])
            )
            time.sleep(0.02)
        self.wfile.write(b"0\r\n\r\n")

    def stream(self, answer: http.client.HTTPResponse, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while chunk := answer.read1(1 << 16):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
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
    if now == "preempts" and path == "/metrics":
        count = b"\\1 %d.0" % server.spoken
        return status, kind, re.sub(rb"(?m)^(vllm:num_preemptions_total\S*) \S+$", count, body)
    if now == "other-model" and path == "/v1/models":
        return 200, kind, body.replace(b"higgs-audio-v2", b"something-else")
    return status, kind, body


def sound_fault(now: str, body: bytes, request: dict[str, Any]) -> bytes:
    """Change a whole sound file."""
    form = request.get("response_format", "pcm")
    start = body.find(b"data") + 8 if form == "wav" else 0
    if now == "zero-bytes":
        return b""
    if now == "in-one-piece":
        return body
    if now == "header-only":
        return wav(b"")
    if now == "two-files":
        return wav(body[start:]) * 2
    if now == "wrong-rate":
        return wav(body[start:], rate=16_000)
    if now == "cut-short":
        return wav(body[start:])[: len(body) // 2]
    if now == "previous":
        voice = str(request.get("voice"))
        before, PREVIOUS[voice] = PREVIOUS.get(voice, body), body
        return before
    if now == "same-text":
        key = (f"{form} {request.get('voice')}", len(body))
        return BY_LENGTH.setdefault(key, body)
    changed = samples_fault(now, array("h", body[start:])).tobytes()
    return wav(changed) if form == "wav" else changed


def samples_fault(now: str, samples: array[int]) -> array[int]:
    """Change samples."""
    count, half = len(samples), CHUNK // 2
    chunks = [samples[x : x + half] for x in range(0, count, half)]
    if now == "silent":
        return array("h", bytes(2 * count))
    if now == "first-word":
        return samples[:8_000]
    if now == "double-speed":
        return samples[::2]
    if now == "resampled":
        return array("h", (samples[x * 3 // 2] for x in range(count * 2 // 3)))
    if now == "constant":
        return array("h", [8_000]) * count
    if now == "tone":
        period = [round(3_700 * math.sin(2 * math.pi * x / 60)) for x in range(60)]
        return (array("h", period) * (count // 60 + 1))[:count]
    if now == "noise":
        return array("h", (18 * (x - 128) * 2 for x in os.urandom(count)))
    if now == "clipped":
        return array("h", (max(-32_768, min(32_767, 12 * x)) for x in samples))
    if now == "gap":
        return samples[:24_000] + array("h", bytes(48_000)) + samples[48_000:]
    if now == "offset":
        return array("h", (max(-32_768, min(32_767, x + 1_000)) for x in samples))
    if now == "truncated":
        return samples[: -24_000 // 5]
    if now == "stereo":
        return array("h", (x for sample in samples for x in (sample, sample)))
    if now == "repeated-chunk":
        return sum([*chunks[:2], *chunks[1:]], array("h"))
    if now == "dropped-chunk":
        return sum([*chunks[:2], *chunks[3:]], array("h"))
    if now == "reversed-chunks":
        return sum(reversed(chunks), array("h"))
    if now == "swapped-bytes":
        samples.byteswap()
    if now == "half-volume":
        return array("h", (x // 2 for x in samples))
    return samples


def first_voice() -> str:
    """Return the voice that the smoke test asks for besides its own."""
    with urllib.request.urlopen(f"http://127.0.0.1:{BEHIND}/v1/audio/voices") as answer:
        names = json.load(answer)
    names = names["voices"] if isinstance(names, dict) else names
    ids = [x["id"] if isinstance(x, dict) else x for x in names]
    return "belinda" if "belinda" in ids else next(x for x in ids if x != "smoke-test")


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
