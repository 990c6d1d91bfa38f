"""A container of the image of the fake fork, for tests that look into it."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import time
from collections.abc import Callable

from higgs_image.smoke.device import FAKE_FORK


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return (done.stdout + done.stderr).strip()


class Container:
    """A running container of the image."""

    def __init__(self, image: str, *arguments: str, options: tuple[str, ...] = ()) -> None:
        variables = [f"--env={name}={value}" for name, value in FAKE_FORK.items()]
        self.name = docker(
            "run", "--detach", "--publish", "127.0.0.1::8000", "--publish", "127.0.0.1::22",
            *variables, *options, image, *arguments,
        )  # fmt: skip

    def port(self, inside: int) -> int:
        return int(docker("port", self.name, str(inside)).split("\n")[0].rpartition(":")[2])

    def ask(
        self, path: str, value: object = None, port: int = 8000, key: str = ""
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port(port), timeout=60)
        try:
            body = None if value is None else json.dumps(value)
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            connection.request("POST" if body else "GET", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def speak(self, text: str) -> tuple[int, bytes]:
        return self.ask("/v1/audio/speech", {"input": text, "voice": "beep"})

    @property
    def log(self) -> str:
        return docker("logs", self.name)

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if condition():
                    return
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)

    def ready(self) -> None:
        self.wait(lambda: self.ask("/ping")[0] == 200)

    def run(self, *command: str) -> str:
        return docker("exec", self.name, *command)

    def status(self) -> int:
        return int(docker("wait", self.name))

    def state(self, what: str) -> str:
        return docker("inspect", "--format", f"{{{{.State.{what}}}}}", self.name)


MakeContainer = Callable[..., Container]
