"""A fake speech server for the entrypoint's tests: real uvicorn, with its real behaviour.

It binds its port early and listens late, accepts `--middleware`, starts a child process as its
engine, and does not wait for running requests when it is stopped, unless TEST_PATIENT is set.
TEST_* variables set its behaviour; it prints a line for each event.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

speeches = 0
health = 200


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path = scope["path"]
    headers = dict(scope["headers"])
    key = os.environ.get("VLLM_API_KEY")
    if key and path.startswith("/v1") and headers.get(b"authorization") != f"Bearer {key}".encode():
        await answer(send, 401, {"error": "Unauthorized"})
    elif path == "/v1/models":
        await answer(send, 200, {"data": [{"id": "test-model"}]})
    elif path == "/v1/audio/voices":
        await answer(send, 200, {"voices": [{"id": "someone"}]})
    elif path == "/v1/audio/speech":
        await speak(receive, send)
    elif path == "/environment":
        await answer(send, 200, dict(os.environ) | {"ARGUMENTS": json.dumps(sys.argv[1:])})
    elif path == "/hang":  # its engine
        global health
        health = 503
        await answer(send, 200, {})
    elif path == "/crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif path == "/end":
        os._exit(int(scope["query_string"]))
    else:
        await answer(send, health if path == "/health" else 404, {})


async def speak(receive: Any, send: Any) -> None:
    global speeches
    speeches += 1
    request = json.loads((await receive())["body"])
    print("speech", request["response_format"], request["voice"], request["model"], flush=True)
    if speeches == 1:
        await asyncio.sleep(float(os.environ.get("TEST_FIRST_SECONDS", "0")))
    if os.environ.get("TEST_SPEECH") == "broken":
        await answer(send, 500, {"error": "no sound"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(int(request.get("pieces", os.environ.get("TEST_PIECES", 1)))):
        await asyncio.sleep(float(request.get("pause", os.environ.get("TEST_PAUSE", 0))))
        await send({"type": "http.response.body", "body": b"sound", "more_body": True})
    await send({"type": "http.response.body", "body": b"."})


async def answer(send: Any, status: int, value: object) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def serve(app: Any, listener: socket.socket) -> None:
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on"))

    def end() -> None:
        server.should_exit = True
        server.force_exit = not os.environ.get("TEST_PATIENT")

    loop = asyncio.get_running_loop()
    task = loop.create_task(server.serve(sockets=[listener]))
    await asyncio.sleep(0)
    loop.add_signal_handler(signal.SIGTERM, end)
    await task


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--middleware")
    options, _ = parser.parse_known_args()
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((options.host, options.port))
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("engine", engine.pid, flush=True)
    time.sleep(float(os.environ.get("TEST_LOADING_SECONDS", "0")))
    while (waited_for := os.environ.get("TEST_LOADING_FILE")) and not Path(waited_for).exists():
        time.sleep(0.02)
    if code := os.environ.get("TEST_EXIT"):
        os._exit(int(code))
    module, _, name = options.middleware.rpartition(".")
    middleware = getattr(importlib.import_module(module), name)
    asyncio.run(serve(middleware(application), listener))
    time.sleep(float(os.environ.get("TEST_EXIT_SECONDS", "0")))


if __name__ == "__main__":
    main()
