"""Debian's packages from the archive that the lock names, and from nowhere else."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from higgs_image.attest import sbom
from higgs_image.build import image
from higgs_image.build.overrides import Overrides
from higgs_image.errors import NetworkError
from higgs_image.host import apt
from higgs_image.workspace import Workspace

from .conftest import MakeFakeFork

pytestmark = pytest.mark.engine


class Archive:
    """Passes on what this machine's own archive has, and counts; as a snapshot's server would."""

    def __init__(self, own: str) -> None:
        self.asked: list[str] = []
        archive = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                archive.asked.append(self.path)
                try:
                    with urllib.request.urlopen(own.rstrip("/") + self.path) as answer:
                        data = answer.read()
                except urllib.error.HTTPError as error:
                    self.send_error(error.code)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.port = int(self.server.server_address[1])


@pytest.fixture
def archive() -> Iterator[Archive]:
    own = apt.archive(apt.read_sources(), apt.OLD)
    if own is None:
        pytest.skip("this machine has no source for Debian 12 to pass on")
    running = Archive(own.uris[0])
    yield running
    running.server.shutdown()
    running.server.server_close()


def name_snapshot(workspace: Workspace, url: str) -> None:
    text = workspace.lock_file.read_text()
    line = f'\n[debian]\nsnapshot = ["deb {url} bookworm main"]\n'
    workspace.lock_file.write_text(text + line)


def test_packages_come_from_the_locked_archive(
    make_fake_fork: MakeFakeFork, overrides: Overrides, archive: Archive
) -> None:
    gateway = docker_gateway()
    workspace = make_fake_fork()
    name_snapshot(workspace, f"http://{gateway}:{archive.port}")
    built = image.build(workspace, overrides=overrides, no_cache=True)
    assert any(path.endswith(".deb") for path in archive.asked)
    assert any("InRelease" in path for path in archive.asked)
    found, _ = sbom.packages(built.layout, built.image)
    assert "python3.11" in {x.name for x in found}


def test_unreachable_snapshot_fails_without_fallback(
    make_fake_fork: MakeFakeFork, overrides: Overrides
) -> None:
    workspace = make_fake_fork()
    name_snapshot(workspace, "http://127.0.0.1:1")
    with pytest.raises(NetworkError):
        image.build(workspace, overrides=overrides, no_cache=True)


def docker_gateway() -> str:
    import subprocess

    asked = subprocess.run(
        ["docker", "network", "inspect", "bridge", "--format",
         "{{(index .IPAM.Config 0).Gateway}}"], check=True, capture_output=True, text=True,
    )  # fmt: skip
    return asked.stdout.strip()
