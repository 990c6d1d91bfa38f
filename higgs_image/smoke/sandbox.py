"""Run a program of an image's unpacked root on this machine, without an engine.

By namespaces (`enter.py`), as root or where users may make them; else by proot, which needs
nothing but to be installed, as in a rented pod, which is an unprivileged container itself.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from higgs_image import process
from higgs_image.errors import EngineError

ENTER = Path(__file__).with_name("enter.py")

NODES = ("null", "zero", "full", "random", "urandom", "tty")
TEMPORARY = ("/tmp", "/root", "/run", "/var/tmp")  # noqa: S108 (in the sandbox)
"""Folders that are writable, in memory: the image's own files are read-only."""
DRIVER = "/usr/local/nvidia"
"""Where the image looks for a driver that no container toolkit has mounted."""
_LIBRARY = re.compile(r"lib(cuda|cudadebugger|nvidia-[\w-]+)\.so(\.|$)")
DRIVER_FOLDERS = ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib64-nvidia")
"""Where else than the loader's own folders hosts keep the driver's libraries."""


@dataclass(frozen=True)
class Sandbox:
    """A program in an image's root before it runs.

    Attributes:
        root: the unpacked image.
        environment: variables, all of them.
        folder: working directory.
        mounts: path on this machine to path in the sandbox.
        writable: the mounts that are not read-only.
        gpu: give it this machine's GPUs and their driver.
    """

    root: Path
    environment: Mapping[str, str]
    folder: str = "/"
    mounts: Mapping[str, str] = field(default_factory=dict)
    writable: frozenset[str] = frozenset()
    gpu: bool = False

    def command(self, arguments: Sequence[str], scratch: Path) -> list[str]:
        """Return the command that runs a program in it.

        Args:
            arguments: the program and its arguments.
            scratch: a folder of the caller's, for what the sandbox needs while it runs.

        Raises:
            EngineError: this machine allows no sandbox.
        """
        network = ("/etc/resolv.conf", "/etc/hosts")
        mounts = {**self.mounts, **{x: x for x in network if Path(x).is_file()}}
        if has_namespaces():
            spec = scratch / "sandbox.json"
            spec.write_text(json.dumps(self._spec(arguments, mounts)))
            return [sys.executable, str(ENTER), str(spec)]
        if program := shutil.which("proot"):
            return [program, *self._proot(mounts, scratch), *arguments]
        raise EngineError(
            "this machine allows neither namespaces nor has it proot: nothing can be run in the "
            "image's files",
            "run as root, allow user namespaces, or install proot (apt-get install proot)",
        )

    def _spec(self, arguments: Sequence[str], mounts: Mapping[str, str]) -> dict[str, Any]:
        nodes = [f"/dev/{name}" for name in NODES]
        return {
            "root": str(self.root),
            "arguments": list(arguments),
            "environment": dict(self.environment),
            "folder": self.folder,
            "mounts": [
                {"source": source, "target": target, "writable": source in self.writable}
                for source, target in mounts.items()
            ],
            "devices": nodes + (gpu_nodes() if self.gpu else []),
            "temporary": [*TEMPORARY, *([DRIVER] if self.gpu else [])],
            "links": driver_links() if self.gpu else {},
        }

    def _proot(self, mounts: Mapping[str, str], scratch: Path) -> list[str]:
        bound = {"/dev": "/dev", "/proc": "/proc", "/sys": "/sys", **mounts}
        for name in TEMPORARY:
            folder = scratch / "temporary" / name.strip("/")
            folder.mkdir(parents=True, exist_ok=True)
            bound[str(folder)] = name
        if self.gpu:
            bound |= {source: target for target, source in driver_links().items()}
        flags = [f"--bind={source}:{target}" for source, target in bound.items()]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return [f"--rootfs={self.root}", f"--cwd={self.folder}", *flags,
                "/usr/bin/env", "-i", *variables]  # fmt: skip


@functools.cache
def has_namespaces() -> bool:
    """Return whether this user can make the namespaces of a container."""
    return subprocess.run([sys.executable, ENTER], capture_output=True).returncode == 0


def gpu_nodes() -> list[str]:
    """Return the device nodes of this machine's GPUs."""
    return [str(x) for x in sorted(Path("/dev").glob("nvidia*"))]


def driver_links() -> dict[str, str]:
    """Return where the driver's libraries belong in the sandbox, and where they are here.

    Triton links what it compiles with -lcuda, so `libcuda.so` is there by that name, too.
    """
    listed = process.ask("ldconfig", "-p").out
    found = {Path(x).name: x for x in re.findall(r"=> (/\S+)", listed)}
    for folder in DRIVER_FOLDERS:
        found |= {x.name: str(x) for x in sorted(Path(folder).glob("*.so*"))}
    links = {f"{DRIVER}/lib64/{name}": x for name, x in found.items() if _LIBRARY.match(name)}
    if cuda := links.get(f"{DRIVER}/lib64/libcuda.so.1"):
        links.setdefault(f"{DRIVER}/lib64/libcuda.so", cuda)
    return links
