"""Recordings are read and resampled as librosa does it, but without it.

Runs inside the image (see test_engine_inside.py), which has librosa and vLLM's libraries.
"""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from higgs_patches.lib import speech_prompt

librosa = pytest.importorskip("librosa", reason="runs inside the image: see test_engine_inside.py")

RATES = [(44_100, 24_000), (24_000, 16_000), (16_000, 24_000), (24_000, 24_000), (22_050, 24_000)]

pytestmark = pytest.mark.fork


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    shape = (int(seconds * rate), channels)
    return np.random.default_rng(7).uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.mark.needs(resampling=True)
def test_nothing_is_compiled() -> None:
    program = (
        "import sys, numpy\n"
        "from vllm.multimodal.audio import resample_audio\n"
        "resample_audio(numpy.zeros(4000, 'float32'), orig_sr=44100, target_sr=24000)\n"
        "sys.exit('librosa.core.audio' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(("before", "after"), RATES)
@pytest.mark.parametrize("seconds", [0.1, 1.2345])
def test_samples_are_those_of_librosa(before: int, after: int, seconds: float) -> None:
    from vllm.multimodal.audio import resample_audio

    audio = noise(seconds, before)[:, 0]
    expected = librosa.resample(audio, orig_sr=before, target_sr=after)
    found = resample_audio(audio, orig_sr=before, target_sr=after)
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_recording_is_read_as_librosa_reads_it(channels: int) -> None:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, noise(0.5, 44_100, channels), 44_100, format="WAV", subtype="PCM_16")
    expected, rate = librosa.load(io.BytesIO(file.getvalue()), sr=None)
    samples, found = speech_prompt._samples(file.getvalue())
    assert found == rate and np.array_equal(samples, expected)
