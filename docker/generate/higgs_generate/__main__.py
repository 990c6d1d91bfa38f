"""`python3 -m higgs_generate [--server URL] [--host ADDRESS] [--port PORT]`: run the service.

Settings are variables (`settings.SETTINGS`); a flag wins over its variable. The entrypoint of the
image passes the listening socket by `--fd`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn

from higgs_generate import page_files, settings
from higgs_generate.app import GenerateApp
from higgs_generate.http_protocol import GenerateProtocol
from higgs_generate.listen import listen_address
from higgs_generate.service import Service

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 90


class GenerateServer(uvicorn.Server):
    """uvicorn, which at a first signal lets running requests finish; a second one ends them."""

    def __init__(self, config: uvicorn.Config, app: GenerateApp) -> None:
        super().__init__(config)
        self._app = app
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        del sig, frame
        if self._draining is None and self.started:
            self._draining = asyncio.get_event_loop().create_task(self._drain())
        else:
            self.should_exit = self.force_exit = True

    async def _drain(self) -> None:
        await self._app.requests.drain()
        self.should_exit = True


def main(arguments: list[str]) -> int:
    """Run the service until a signal arrives; return the exit code."""
    parser = argparse.ArgumentParser(prog="higgs_generate", description=__doc__)
    parser.add_argument("--server", help="URL of the speech server (HIGGS_GENERATE_SERVER)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8888, help="port to listen on")
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    environment = dict(os.environ)
    if given.server:
        environment[settings.SERVER.variable] = given.server
    try:
        values = settings.read(environment)
    except ValueError as error:
        print(f"higgs: ERROR: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(format="higgs: generate: %(message)s", level=logging.INFO)
    folder = Path(environment.get("HIGGS_GENERATE_PAGE_DIR") or page_files.FOLDER)
    app = GenerateApp(Service(values), folder)
    try:
        listener = _listener(given.fd, given.host, given.port, environment)
    except OSError as error:
        print(
            f"higgs: ERROR: port {given.port} on {given.host} cannot be used: {error.strerror}; "
            "hint: choose another --port",
            file=sys.stderr,
        )
        return 31
    config = uvicorn.Config(
        app, http=GenerateProtocol, ws="none", loop="uvloop", lifespan="on", access_log=False,
        log_level="warning", backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        server_header=False, date_header=False, proxy_headers=False,
    )  # fmt: skip
    GenerateServer(config, app).run(sockets=[listener])
    return 0


def _listener(fd: int | None, host: str, port: int, environment: dict[str, str]) -> socket.socket:
    if fd is not None:
        return socket.socket(fileno=fd)
    allowed, reason = listen_address(host, environment)
    if reason:
        logging.getLogger("higgs_generate").warning("%s", reason)
    family = socket.AF_INET6 if ":" in allowed else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((allowed, port))
    where = f"[{allowed}]" if ":" in allowed else allowed
    print(f"higgs: generate: http://{where}:{listener.getsockname()[1]}", flush=True)
    return listener


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(main(sys.argv[1:]))
