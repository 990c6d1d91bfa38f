"""Make outputs of a speech request only when its reader can go on.

The reader says so by `speech_collector.ENOUGH`, and `preprocessing` gives its request a collector
for that. All other requests are as before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from higgs_patches.lib.speech_collector import SpeechCollector

PATCH = {
    "title": "Wake who reads speech for a chunk, not for each frame",
    "issues": [],
    "why": (
        "Each step of the engine makes two objects for each listener and wakes his task through "
        "five generators, though nothing can be decoded with a single frame."
    ),
    "obsolete_when": "RequestOutputCollector wakes its reader for several tokens at a time.",
    "targets": [
        {
            "file": "vllm/v1/engine/output_processor.py",
            "name": "RequestState.make_request_output",
            "how": "wrap",
            "with": "if_enough",
            "sha256": "a1d4aeff3696e768cec29ba0c88a73a6b654131d2693ae5cdb0cdcba6d1f3f37",
        },
    ],
}


def if_enough(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make no output while the reader could do nothing with it (method of RequestState)."""

    @functools.wraps(original)
    def make_request_output(
        self: Any,
        new_token_ids: list[int],
        finish_reason: Any,
        stop_reason: Any,
        new_mm_token_ids: list[int] | None = None,
    ) -> Any:
        queue = self.queue if finish_reason is None else None
        if isinstance(queue, SpeechCollector) and queue.keep(new_token_ids, new_mm_token_ids):
            return None
        return original(self, new_token_ids, finish_reason, stop_reason, new_mm_token_ids)

    return make_request_output
