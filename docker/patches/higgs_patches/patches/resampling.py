"""Resample recordings without librosa, which compiles when it is used for the first time.

librosa's modules compile functions by Numba when they are imported, and keep them in the container:
in each new one the first recording, which the warm-up sends, waited for half a minute of processor
time. soxr, which librosa calls, needs none of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PATCH = {
    "title": "Recordings are resampled without compiling anything",
    "issues": [],
    "why": (
        "In each new container the server compiled for half a minute of processor time, by Numba "
        "for librosa, before it could speak."
    ),
    "obsolete_when": "vllm/multimodal/audio.py does not use librosa.",
    "targets": [
        {
            "file": "vllm/multimodal/audio.py",
            "name": "resample_audio",
            "how": "replace",
            "with": "resample_audio",
            "sha256": "e6be6eb26d67963d66fe75d1ef0987b55934eb00bbdbd567284ee8934e31f20c",
            "fixed": r"soxr",
        },
    ],
}


def resample_audio(
    audio: NDArray[np.floating], *, orig_sr: float, target_sr: float
) -> NDArray[np.floating]:
    """Return samples of one channel at another rate: the same ones as librosa.resample.

    Args:
        audio: the samples.
        orig_sr: their rate in Hz.
        target_sr: the rate of the result in Hz.
    """
    import numpy as np
    import soxr

    if orig_sr == target_sr:
        return audio
    wanted = math.ceil(len(audio) * (float(target_sr) / orig_sr))
    found = soxr.resample(audio, orig_sr, target_sr, quality="soxr_hq")[:wanted]
    padded = np.pad(found, (0, wanted - len(found)))
    return np.asarray(padded, dtype=audio.dtype)
