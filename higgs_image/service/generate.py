"""Run the service of POST /generate on this machine, in front of a server that runs anywhere."""

from __future__ import annotations

import os
import shutil
import sys
from typing import NoReturn

from higgs_image.errors import UsageError
from higgs_image.workspace import Workspace

FOLDERS = ("docker/generate", "docker/patches")
"""Where the service and what it shares with the server lie."""


def run(workspace: Workspace, server: str, *, address: str, port: int) -> NoReturn:
    """Become the service; it ends at Ctrl-C, after its running requests.

    Args:
        workspace: has the service's files, and room for a link to ffmpeg.
        server: URL of the speech server; empty: HIGGS_GENERATE_SERVER.
        address: to listen on.
        port: to listen on.

    Raises:
        UsageError: no server is named.
    """
    if not server and not os.environ.get("HIGGS_GENERATE_SERVER"):
        raise UsageError("no server is named", "name one: --server http://localhost:8000")
    command = [sys.executable, "-m", "higgs_generate", "--host", address, "--port", str(port)]
    if server:
        command += ["--server", server]
    paths = [str(workspace.root / folder) for folder in FOLDERS]
    before = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, *filter(None, [before])])}
    if shutil.which("ffmpeg") is None:
        environment["PATH"] = f"{_ffmpeg(workspace)}{os.pathsep}{os.environ.get('PATH', '')}"
    os.execve(sys.executable, command, environment)  # noqa: S606


def _ffmpeg(workspace: Workspace) -> str:
    """Return a folder with the ffmpeg that is in the image."""
    from imageio_ffmpeg import get_ffmpeg_exe

    folder = workspace.build / "ffmpeg"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "ffmpeg"
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(get_ffmpeg_exe())
    return str(folder)
