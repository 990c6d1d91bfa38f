"""Scripts of the user, with the names that RunPod gives them: /pre_start.sh and /post_start.sh."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from higgs_runtime import log
from higgs_runtime.errors import HookError

PRE_START, POST_START = Path("/pre_start.sh"), Path("/post_start.sh")


def pre_start(hook: Path = PRE_START) -> None:
    """Run the hook, if it exists, before anything is loaded.

    Raises:
        HookError: it failed.
    """
    if not hook.is_file():
        return
    log.info(f"running {hook}")
    code = subprocess.run(["bash", str(hook)]).returncode
    if code != 0:
        raise HookError(f"{hook} exited with {code}", "see its output above, and correct it")


def post_start(hook: Path = POST_START) -> None:
    """Run the hook, if it exists, in the background; a failure does not stop the server."""
    if not hook.is_file():
        return
    log.info(f"running {hook}")

    def run() -> None:
        code = subprocess.run(["bash", str(hook)]).returncode
        if code != 0:
            log.warning(f"{hook} exited with {code}")

    threading.Thread(target=run, daemon=True).start()
