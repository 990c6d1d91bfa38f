"""Measure how long it takes from an image's name to a server that is ready, over a slow link.

    .venv/bin/python -m benchmarks.pull REGISTRY/NAME:TAG [...] --no-start [--mbit 1000]

The images are in a registry on loopback, such as `./inv install-docker --registry` starts. Each is
pulled through a proxy that passes on so many megabits a second, by a containerd of its own with an
empty store, three layers at a time as Docker does; then it is started on the CPU device. Compares
ways to spread an image over layers. Needs root and containerd.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from higgs_image import lockfile
from higgs_image.oci.daemon import docker_client
from higgs_image.ports import free_port
from higgs_image.retry import wait_until
from higgs_image.smoke import cpu_device
from higgs_image.workspace import Workspace

PIECE = 1 << 18
"""Bytes that are passed on at once."""

CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/socket"
"""


class SlowLink:
    """A proxy on loopback whose connections share a bandwidth towards the client.

    Attributes:
        port: where it listens.
        sent: bytes that it has passed on.
    """

    def __init__(self, upstream: tuple[str, int], megabits: float) -> None:
        self._upstream, self._rate = upstream, megabits * 1e6 / 8
        self._free, self._lock = 0.0, threading.Lock()
        self.sent = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._server.accept()
            upstream = socket.create_connection(self._upstream)
            for source, target, slow in ((upstream, client, True), (client, upstream, False)):
                threading.Thread(
                    target=self._pass, args=(source, target, slow), daemon=True
                ).start()

    def _pass(self, source: socket.socket, target: socket.socket, slow: bool) -> None:
        read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIECE)
        with contextlib.suppress(OSError):  # either side hung up
            while size := os.splice(source.fileno(), write, PIECE):
                if slow:
                    self._wait(size)
                while size:
                    size -= os.splice(read, target.fileno(), size)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        os.close(read)
        os.close(write)

    def _wait(self, size: int) -> None:
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self._rate
            wait = self._free - time.monotonic()
            self.sent += size
        time.sleep(max(0.0, wait))


@contextlib.contextmanager
def containerd() -> Iterator[list[str]]:
    """Run a containerd with an empty store; yields its client's command."""
    folder = Path(tempfile.mkdtemp(prefix="pull-", dir="/var/tmp"))
    (folder / "config.toml").write_text(CONFIG.format(folder=folder))
    with (folder / "log").open("w") as log:
        daemon = subprocess.Popen(
            ["containerd", "--config", folder / "config.toml"], stdout=log, stderr=log
        )
    try:
        client = ["ctr", "--address", f"{folder}/socket"]
        if not wait_until(lambda: _answers([*client, "version"]), 20):
            sys.exit((folder / "log").read_text())
        yield client
    finally:
        daemon.terminate()
        daemon.wait()
        shutil.rmtree(folder)


def _answers(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def pull(client: list[str], image: str, megabits: float) -> tuple[str, float, float]:
    """Pull an image.

    Returns:
        Its name, seconds, and MB (10^6 bytes) that came over the link.
    """
    address, _, rest = image.partition("/")
    host, _, port = address.partition(":")
    link = SlowLink((host, int(port)), megabits)
    name = f"127.0.0.1:{link.port}/{rest}"
    started = time.monotonic()
    subprocess.run(
        [*client, "images", "pull", "--plain-http", "--max-concurrent-downloads", "3", name],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return name, time.monotonic() - started, link.sent / 1e6


def start(client: list[str], name: str, mounts: dict[str, str]) -> float:
    """Start the image on the CPU device; return the seconds until /ping is 200."""
    port = free_port()
    environment = cpu_device.ENVIRONMENT | {"PORT": str(port)}
    command = [*client, "run", "--rm", "--net-host"]
    for key, value in environment.items():
        command += ["--env", f"{key}={value}"]
    for source, target in mounts.items():
        command += ["--mount", f"type=bind,src={source},dst={target},options=rbind:ro"]
    started = time.monotonic()
    with subprocess.Popen(
        [*command, name, "server"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            if not wait_until(lambda: _ready(port), 600):
                sys.exit(f"{name} is not ready after 600 s")
            return time.monotonic() - started
        finally:
            subprocess.run([*client, "tasks", "kill", "--signal", "SIGKILL", "server"])
            server.wait()


def _ready(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
        return connection.recv(64).split()[1:2] == [b"200"]
    return False


def main() -> None:
    """Print medians for each image."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--mbit", type=float, default=1000, help="bandwidth in megabits a second")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-start", action="store_true", help="measure the pull only")
    parser.add_argument("--weights-from", help="an image in the engine, which makes the weights")
    given = parser.parse_args()
    mounts: dict[str, str] = {}
    if not given.no_start:
        workspace = Workspace.default()
        with docker_client() as docker:
            lock = lockfile.load(workspace.lock_file)
            weights = cpu_device.weights(docker, workspace, given.weights_from, lock)
        mounts = cpu_device.mounts(workspace, weights)
    figures: dict[str, list[tuple[float, float, float]]] = {image: [] for image in given.images}
    for _ in range(given.rounds):
        for image in given.images:
            with containerd() as client:
                name, pulled, size = pull(client, image, given.mbit)
                print(f"{image}: {size:.0f} MB in {pulled:.1f} s", file=sys.stderr)
                ready = start(client, name, mounts) if mounts else 0.0
            figures[image].append((pulled, ready, size))
    print("| image | MB | pulled and unpacked | then ready | together |\n|---|---|---|---|---|")
    for image, rounds in figures.items():
        pulled, ready, size = map(statistics.median, zip(*rounds, strict=True))
        print(f"| {image} | {size:.0f} | {pulled:.1f} s | {ready:.1f} s | {pulled + ready:.1f} s |")


if __name__ == "__main__":
    main()
