"""The service of POST /generate as a second process: started, watched, restarted, and stopped.

Its socket is bound here, so that a port that is taken is reported at once, and connections wait
while the service is restarted.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

from higgs_runtime import address, control, log
from higgs_runtime.errors import PortTakenError
from higgs_runtime.settings import Settings

MODULE = "higgs_generate"
SOON_SECONDS = 10.0
MOST_STARTS = 5
"""A service that ends so often, each time so soon, is not started again."""
RUNNING = "HIGGS_GENERATE_RUNNING"
SERVER = "HIGGS_GENERATE_SERVER"


class GenerateProcess:
    """The process.

    Args:
        listener: the socket on which it is reached.
        environment: its variables.
        url: where its users reach it.
        token: secret by which the server knows its requests.
    """

    def __init__(
        self, listener: socket.socket, environment: Mapping[str, str], url: str, token: str
    ) -> None:
        self.url = url
        self.token = token
        self._listener = listener
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._short_lives = 0
        self._stopping = False

    def start(self) -> None:
        """Start it."""
        number = self._listener.fileno()
        command = [sys.executable, "-m", MODULE, "--fd", str(number)]
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            command, env=self._environment, pass_fds=[number], start_new_session=True
        )

    @property
    def ended(self) -> bool:
        """Whether it does not run."""
        return self._process is None or self._process.poll() is not None

    def restart_if_ended(self) -> bool:
        """Start it again if it has ended by itself; return whether it runs."""
        if self._stopping or not self.ended or self._process is None:
            return True
        lived = time.monotonic() - self._began
        self._short_lives = self._short_lives + 1 if lived < SOON_SECONDS else 1
        code = self._process.returncode
        text = f"/generate exited with {code} after {lived:.1f} s"
        if self._short_lives >= MOST_STARTS:
            log.error(text, "see the lines above, or unset HIGGS_GENERATE_PORT")
            return False
        log.warning(f"{text}; it is started again; hint: see the lines above")
        self.start()
        return True

    def stop(self) -> None:
        """Let it finish its running requests and end."""
        self._stopping = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._stopping = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def create(
    settings: Settings, environment: Mapping[str, str], running: int
) -> GenerateProcess | None:
    """Return the service, which listens but does not run yet; None if it is off.

    Args:
        settings: the settings.
        environment: the container's variables.
        running: requests that the server runs at once.

    Raises:
        PortTakenError: its port cannot be bound.
    """
    port = settings.generate_port
    if not port:
        return None
    from higgs_generate.listen import listen_address

    changed = {name: value for name, value in environment.items() if name not in _WITHHELD}
    if key := settings.api_key or environment.get(control.API_KEY, "").strip():
        changed["HIGGS_API_KEY"] = key
    host, reason = listen_address(settings.host, changed)
    url = f"http://{address.local_host(host)}:{port}"
    if reason:
        log.warning(reason)
    else:
        url = address.public_url(port, environment)
    log.info(f"/generate: {url}")
    token = os.urandom(16).hex()
    changed[control.COMPANION] = token
    changed[SERVER] = f"http://{address.local_host(settings.host)}:{settings.port}"
    changed.setdefault(RUNNING, str(running))
    return GenerateProcess(_listener(host, port), changed, url, token)


_WITHHELD = ("HF_TOKEN", "PUBLIC_KEY", control.API_KEY)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortTakenError(
            f"port {port} on {host} cannot be used: {error.strerror}",
            "stop the program that uses it (on RunPod: startJupyter=false), or set "
            "HIGGS_GENERATE_PORT to another port",
        ) from None
    listener.listen(2048)
    return listener
