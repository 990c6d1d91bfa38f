"""End the server with its engine, however that ends.

The engine runs in a process of its own. When it fails by an exception it tells the server, which
ends then. When it is killed (by the kernel, for memory; by a fault in a driver's library) it sends
nothing: the server goes on listening, calls itself healthy, and every request hangs; and if that
happens while the model loads, it ends with an EOFError without a cause. So the process that answers
requests waits for the engine's end itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from multiprocessing import connection
from typing import Any

log = logging.getLogger("vllm.higgs_patches.engine_process")

PATCH = {
    "title": "End the server when its engine's process is killed",
    "issues": [],
    "why": (
        "The server learns of a failed engine by a signal that the engine itself sends. A killed "
        "one sends none: the server stays healthy and answers nothing."
    ),
    "obsolete_when": "BackgroundProcHandle or MPClient watches the engine's process for its end.",
    "targets": [
        {
            "file": "vllm/v1/utils.py",
            "name": "BackgroundProcHandle.wait_for_startup",
            "how": "replace",
            "with": "wait_for_startup",
            "sha256": "da38de2ec0f1b11968850853614f7bff2084fda502c425691c45536d0513f1d7",
        },
    ],
}


def wait_for_startup(self: Any) -> None:
    """Wait until the engine is ready; end with it from then on (method of BackgroundProcHandle).

    Raises:
        RuntimeError: it ended before that.
    """
    connection.wait([self.reader, self.proc.sentinel])
    status = None
    if self.reader.poll():
        with contextlib.suppress(EOFError):
            status = self.reader.recv()["status"]
    if status != "READY":
        self.proc.join(5)
        raise RuntimeError(f"{self.proc.name} {_ended(self.proc)} before it was ready")
    threading.Thread(target=_watch, args=(self,), name="engine's end", daemon=True).start()


def _watch(handle: Any) -> None:
    """Wait for the engine's end; if the server did not ask for it, it is the server's, too."""
    connection.wait([handle.proc.sentinel])
    if not handle._finalizer.alive:  # the server ends it
        return
    handle.proc.join(5)
    log.critical("%s %s, so the server ends", handle.proc.name, _ended(handle.proc))
    os.kill(os.getpid(), signal.SIGKILL)


def _ended(process: Any) -> str:
    """Say how a process ended."""
    code = process.exitcode
    if code is not None and code < 0:
        hint = " (usually too little memory)" if -code == signal.SIGKILL else ""
        return f"was killed by signal {-code}{hint}"
    return f"ended with {code}"
