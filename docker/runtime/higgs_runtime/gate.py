"""Runs inside the server, as its outermost middleware: warm-up, GET /ping, and the last requests.

The server takes it by its own flag (`--middleware higgs_runtime.gate.Gate`), so nothing of it has
to be changed. When the application is ready, and before anybody can connect, it is asked for some
speech: what is loaded, imported or compiled on a first request is then done (the processor with its
audio tokenizer, resampling, the encoders of sound files, the codec's kernels, the recordings of
the voices). The start code outside is told when that has happened, and tells when no more requests
may be let in.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from higgs_runtime.control import API_KEY, CONTROL, DRAIN, DRAINED, READY, WARMUP

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

QUIET = ("/ping", "/health", "/metrics")
"""What platforms ask every few seconds: neither counted nor in the access log."""

TEXT = "Hello, this is a test."
TOKENS = 64
"""Longest answer to a request of the warm-up: 2.6 s of sound."""
FORMATS = ("pcm", "wav", "mp3")
MOST_VOICES = 16
"""More are not asked for: somebody may have a folder with hundreds."""

log = logging.getLogger("vllm.higgs_runtime")


class Gate:
    """ASGI middleware around the server's application.

    Args:
        app: the application.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._running = 0
        self._draining = False
        self._control: socket.socket | None = None
        number = os.environ.pop(CONTROL, "")  # nobody else needs it
        if number:
            self._control = socket.socket(fileno=int(number))
            self._control.set_inheritable(False)
            self._control.setblocking(False)
        logging.getLogger("uvicorn.access").addFilter(_worth_logging)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one connection's request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._opening(scope, send))
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "/ping":
            await _respond(send, 503 if self._draining else 200, {"status": self._status()})
        elif self._draining and scope["path"] != "/metrics":
            error = {"message": "the server is ending", "type": "server_error",
                     "param": None, "code": None}  # fmt: skip
            await _respond(send, 503, {"error": error})
        elif scope["path"] in QUIET:
            await self._app(scope, receive, send)
        else:
            self._running += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._running -= 1
                self._report_drained()

    def _status(self) -> str:
        return "ending" if self._draining else "ready"

    def _opening(self, scope: Scope, send: Send) -> Send:
        """Return a `send` that warms up before it says that the application has started."""

        async def wrapped(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await warm_up(self._app, scope.get("app"))
                if self._control:
                    asyncio.get_running_loop().add_reader(self._control, self._listen)
                    self._control.send(READY)
            await send(message)

        return wrapped

    def _listen(self) -> None:
        """Take the start code's word that no more requests may be let in."""
        assert self._control is not None  # noqa: S101 (only then is this called)
        try:
            said = self._control.recv(64)
        except BlockingIOError:
            return
        if not said:
            asyncio.get_running_loop().remove_reader(self._control)
        elif DRAIN in said:
            self._draining = True
            self._report_drained()

    def _report_drained(self) -> None:
        if self._draining and self._running == 0 and self._control:
            self._control.send(DRAINED)


def _worth_logging(record: logging.LogRecord) -> bool:
    arguments = record.args
    if not isinstance(arguments, tuple) or len(arguments) < 5:
        return True
    return str(arguments[2]).partition("?")[0] not in QUIET or arguments[4] not in (200, 204)


async def _respond(send: Send, status: int, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)),
               (b"cache-control", b"no-store")]  # fmt: skip
    if status != 200:
        headers += [(b"connection", b"close"), (b"retry-after", b"5")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def warm_up(app: App, application: object) -> None:
    """Ask the application for speech, as often as it takes until nothing is done the first time.

    A failure is logged and is no reason not to start: the first request will say the same.

    Args:
        app: what the middleware is around.
        application: what the scope of a request names as its app.
    """
    limit = float(os.environ.get(WARMUP) or 0)
    if limit <= 0:
        return
    server = logging.getLogger("vllm")
    level = server.level
    server.setLevel(logging.WARNING)  # its lines about requests: these are nobody's
    started = time.monotonic()
    took: list[str] = []
    problem = ""
    try:
        async with asyncio.timeout(limit):
            await _speak(app, application, took)
    except TimeoutError:
        problem = f"was given up after {limit:.0f} s, the first requests will be slower"
    except Exception as error:
        problem = f"failed, the first requests will be slower: {error}"
    finally:
        server.setLevel(level)
    if problem:
        log.warning("warm-up %s", problem)
    else:
        log.info("warm-up took %.1f s (%s)", time.monotonic() - started, ", ".join(took))


async def _speak(app: App, application: object, took: list[str]) -> None:
    """Ask for each format in one voice, then for the other voices, all at once."""
    model = (await _json(app, application, "/v1/models"))["data"][0]["id"]
    first, *others = _voices(await _json(app, application, "/v1/audio/voices"))

    async def say(voice: str, response_format: str) -> None:
        request = {
            "model": model, "voice": voice, "input": TEXT,
            "response_format": response_format, "max_tokens": TOKENS,
        }  # fmt: skip
        await _ask(app, application, "POST", "/v1/audio/speech", request)

    for response_format in FORMATS:
        started = time.monotonic()
        await say(first, response_format)
        took.append(f"{response_format} {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    await asyncio.gather(*(say(voice, FORMATS[0]) for voice in others[: MOST_VOICES - 1]))
    took.append(f"{len(others)} more voices {time.monotonic() - started:.1f} s")


def _voices(answer: Any) -> list[str]:
    """Return the voices with a recording, which is encoded when they are first asked for."""
    entries = answer["voices"] if isinstance(answer, dict) else answer
    plain = [x if isinstance(x, dict) else {"id": x} for x in entries]
    recorded = [x["id"] for x in plain if x.get("kind", "recording") == "recording"]
    return recorded or [x["id"] for x in plain[:1]]


async def _json(app: App, application: object, path: str) -> Any:
    return json.loads(await _ask(app, application, "GET", path))


async def _ask(
    app: App, application: object, method: str, path: str, value: object = None
) -> bytes:
    """Ask the application without a connection.

    Raises:
        RuntimeError: the answer is not 200.
    """
    body = b"" if value is None else json.dumps(value).encode()
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"),
               (b"content-length", b"%d" % len(body))]  # fmt: skip
    if key := os.environ.get(API_KEY):
        headers.append((b"authorization", b"Bearer " + key.encode()))
    scope: Scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": method, "scheme": "http", "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "headers": headers, "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0), "state": {}, "app": application,
    }  # fmt: skip
    requests = [{"type": "http.request", "body": body, "more_body": False}]
    status = 0
    pieces: list[bytes] = []

    async def receive() -> Message:
        if requests:
            return requests.pop()
        await asyncio.Event().wait()  # the client stays
        raise AssertionError("unreachable")

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            pieces.append(message.get("body", b""))

    await app(scope, receive, send)
    answer = b"".join(pieces)
    if status != 200:
        raise RuntimeError(f"{path} answered {status}: {answer[:300].decode(errors='replace')}")
    return answer
