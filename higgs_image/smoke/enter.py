"""Become a container: `python3 enter.py SPEC` runs a program in an image's unpacked root.

No engine is needed, and no root where the kernel gives user namespaces to everybody. The program
gets namespaces of its own for mounts, processes and, without root, users: what is mounted here is
seen by nobody else, and everything that it starts ends with it. The image's files are read-only.
Its /dev has only the nodes that are needed. Signals are passed on to it, and its exit code is ours.
Without SPEC it only tells whether this machine allows that.

SPEC is a JSON file: root, arguments, environment, folder, mounts (source, target, writable),
devices, temporary (folders that are empty and in memory), and links (target to source).
Standard library only: it runs before anything else, with any Python.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

NEW_USER, NEW_MOUNTS, NEW_PIDS = 0x10000000, 0x00020000, 0x20000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18
NO_SUID, NO_DEV, NO_EXEC, NO_ATIME = 2, 4, 8, 1024
LOCKED = ((os.ST_NOSUID, NO_SUID), (os.ST_NODEV, NO_DEV), (os.ST_NOEXEC, NO_EXEC),
          (os.ST_NOATIME, NO_ATIME))  # fmt: skip
"""Flags that a user namespace cannot take away from a mount."""
STREAMS = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}
PARENT_DEATH = 1
CANNOT = 125
"""Exit code when the program was not started."""

LIBC = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Raise OSError if a call of the C library failed."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount as mount(2) does."""
    names = [x.encode() if x else None for x in (source, str(target), kind, options)]
    made = LIBC.mount(names[0], names[1], names[2], ctypes.c_ulong(flags), names[3])
    checked(made, f"mounting {source or kind} at {target}")


def place(target: Path, *, folder: bool) -> None:
    """Make what something is mounted at, if it is not there."""
    if target.exists() or target.is_symlink():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir() if folder else target.touch()


def bind(source: str, target: Path, *, writable: bool = True) -> None:
    """Let a file or folder appear at another place as well."""
    place(target, folder=Path(source).is_dir())
    mount(source, target, flags=BIND | RECURSIVE)
    if not writable:
        kept = os.statvfs(target).f_flag
        flags = sum(flag for seen, flag in LOCKED if kept & seen)
        mount("", target, flags=BIND | REMOUNT | READ_ONLY | flags)


def unshare() -> None:
    """Get namespaces of our own; without root, one of users as well, in which we are root."""
    user, group = os.getuid(), os.getgid()
    if LIBC.unshare(NEW_MOUNTS | NEW_PIDS) == 0:
        return
    checked(LIBC.unshare(NEW_USER | NEW_MOUNTS | NEW_PIDS), "new namespaces")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def prepare(spec: dict[str, Any]) -> None:
    """Mount everything below the image's root."""
    root = Path(spec["root"])
    mount("", Path("/"), flags=PRIVATE | RECURSIVE)
    for entry in spec["mounts"]:
        place(root / entry["target"].lstrip("/"), folder=Path(entry["source"]).is_dir())
    for folder in ["/proc", "/sys", "/dev", *spec["temporary"]]:
        place(root / folder.lstrip("/"), folder=True)
    bind(str(root), root, writable=False)
    for folder in spec["temporary"]:
        mount("tmpfs", root / folder.lstrip("/"), "tmpfs", 0, "mode=1777")
    try:
        mount("proc", root / "proc", "proc", NO_SUID | NO_DEV | NO_EXEC)
    except OSError:  # a container around us may not allow another one
        bind("/proc", root / "proc")
    bind("/sys", root / "sys")
    devices = root / "dev"
    mount("tmpfs", devices, "tmpfs", NO_SUID, "mode=755")
    (devices / "shm").mkdir()
    mount("tmpfs", devices / "shm", "tmpfs", NO_SUID | NO_DEV, "mode=1777")
    for name, target in STREAMS.items():
        (devices / name).symlink_to(f"/proc/self/fd{target}")
    for node in spec["devices"]:
        bind(node, root / node.lstrip("/"))
    for entry in spec["mounts"]:
        bind(entry["source"], root / entry["target"].lstrip("/"), writable=entry["writable"])
    for name, source in spec["links"].items():
        target = root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)  # a library of the driver; it lies in memory


def main(path: str) -> int:
    """Run the program and return its exit code; without a path, tell whether that is possible."""
    try:
        unshare()
    except OSError as error:
        print(f"enter: no container can be made here: {error.strerror}", file=sys.stderr)
        return CANNOT
    if not path:
        return 0
    spec = json.loads(Path(path).read_text())
    child = os.fork()  # the first process of its namespace: when it ends, all others do
    if child == 0:
        LIBC.prctl(PARENT_DEATH, signal.SIGKILL)
        try:
            prepare(spec)
            os.chroot(spec["root"])
            os.chdir(spec["folder"] or "/")
            search = spec["environment"].get("PATH", os.defpath)
            program = shutil.which(spec["arguments"][0], path=search)
            if program is None:
                raise FileNotFoundError(2, f"{spec['arguments'][0]}: not found in the image")
            os.execve(program, spec["arguments"], spec["environment"])  # noqa: S606
        except OSError as error:
            print(f"enter: {error.strerror} {error.filename or ''}".rstrip(), file=sys.stderr)
        os._exit(CANNOT)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main("".join(sys.argv[1:])))
