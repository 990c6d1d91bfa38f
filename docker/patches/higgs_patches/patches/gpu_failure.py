"""End the server when the GPU's context of its process is broken; refuse a request without memory.

The audio tokenizer runs in the server's process, with a CUDA context of its own. An illegal access,
an ECC error or a GPU that has fallen off the bus breaks it for good: every later call fails. The
engine has another context and may go on, so the server would be healthy and mute for ever. Whether
an error stays is asked of CUDA itself: on a broken context, waiting for it fails as well. All other
errors are those of one request: too little memory for a long recording is a 503.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from higgs_patches.lib.errors import RefusedError

log = logging.getLogger("vllm.higgs_patches.gpu_failure")

PATCH = {
    "title": "End the server when its own GPU context is broken",
    "issues": [],
    "why": (
        "After a CUDA error in the audio tokenizer every answer fails, while the engine goes on "
        "and /health is 200: nothing ever restarts the server."
    ),
    "obsolete_when": "the server ends, or is unhealthy, after a CUDA error in AudioTokenizer.",
    "targets": [
        {
            "file": "vllm/model_executor/models/higgs_audio_tokenizer.py",
            "name": "AudioTokenizer.encode",
            "how": "wrap",
            "with": "ending_when_broken",
            "sha256": "1199ad79c0683ef1d23dcb8d0ad9c6fc8e6066c206ee525d01a9e5ac72a8a777",
        },
        {
            "file": "vllm/model_executor/models/higgs_audio_tokenizer.py",
            "name": "AudioTokenizer.decode",
            "how": "wrap",
            "with": "ending_when_broken",
            "sha256": "8106b6c6bc3167ea2fa58fdd7d5106f37afee99405d5d70751a636c2304686da",
        },
    ],
}


def ending_when_broken(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that computes on the GPU.

    The function raises RefusedError instead of torch.OutOfMemoryError, and does not return if the
    context is broken.
    """

    @functools.wraps(original)
    def computed(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except RuntimeError as error:
            import torch

            if is_broken():
                _end(error)
            if isinstance(error, torch.OutOfMemoryError):
                log.warning("The audio tokenizer has too little GPU memory: %s", error)
                raise RefusedError(
                    "the GPU has no memory left for this audio now: try again, or send a shorter "
                    "recording",
                    status=HTTPStatus.SERVICE_UNAVAILABLE,
                ) from error
            raise

    return computed


def is_broken() -> bool:
    """Return whether CUDA reports its last error again, as it does if no later call can work."""
    import torch

    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _end(error: RuntimeError) -> None:
    from vllm.utils import kill_process_tree

    reason = (str(error).splitlines() or [type(error).__name__])[0]
    log.critical("The GPU can no longer be used, so the server ends: %s", reason)
    kill_process_tree(os.getpid())
