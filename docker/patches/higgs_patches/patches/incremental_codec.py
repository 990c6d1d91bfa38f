"""Let the audio tokenizer decode pieces of utterances, each frame once and several as one batch.

The fork decodes chunk by chunk, each with the frames around it again, which is twice the work. See
`lib.audio.incremental`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

PATCH = {
    "title": "Decode each audio frame once, and several listeners' frames as one batch",
    "issues": [],
    "why": (
        "Each chunk is decoded with the frames around it again, by itself: twice the work, and "
        "some hundred small GPU kernels for each second of every listener's sound."
    ),
    "obsolete_when": "AudioTokenizer.decode keeps the state of its layers between chunks.",
    "targets": [
        {
            "file": "vllm/model_executor/models/higgs_audio_tokenizer.py",
            "name": "AudioTokenizer.decode",
            "how": "wrap",
            "with": "in_pieces",
            "sha256": "8106b6c6bc3167ea2fa58fdd7d5106f37afee99405d5d70751a636c2304686da",
        },
    ],
}


def in_pieces(original: Callable[..., Any]) -> Callable[..., Any]:
    """Decode a list of pieces (see `codec_thread.PieceCodec`); anything else as before."""

    @functools.wraps(original)
    def decode(self: Any, vq_code: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(vq_code, list):
            return original(self, vq_code, *args, **kwargs)
        from higgs_patches.lib.audio.incremental import IncrementalDecoder

        if not hasattr(self, "higgs_incremental"):
            self.higgs_incremental = IncrementalDecoder(self.audio_tokenizer_model)
        return self.higgs_incremental.decode(vq_code)

    return decode
