"""Decoded sound and the figures by which it is judged."""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from higgs_image.audio import SAMPLE_RATE

FULL_SCALE = 32_768
SILENCE = 0.01
"""Level below which sound is silent: -40 dB, root mean square of a full scale of 1."""
WINDOW_SECONDS = 0.05


@dataclass(frozen=True, eq=False)
class Sound:
    """Mono sound of 16 bits.

    Attributes:
        samples: as int16.
        rate: samples per second.
    """

    samples: npt.NDArray[np.int16]
    rate: int = SAMPLE_RATE

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / self.rate

    @property
    def peak(self) -> float:
        """Largest sample, of a full scale of 1."""
        return float(np.abs(self._scaled).max(initial=0.0))

    @property
    def offset(self) -> float:
        """Mean of all samples, of a full scale of 1: sound has none."""
        return float(self._scaled.mean()) if len(self.samples) else 0.0

    @property
    def loudness(self) -> float:
        """Root mean square without the offset, of a full scale of 1."""
        return float(self._scaled.std()) if len(self.samples) else 0.0

    @property
    def clipped(self) -> float:
        """Share of the samples at the limits of 16 bits."""
        limits = (self.samples >= FULL_SCALE - 1) | (self.samples <= -FULL_SCALE)
        return float(limits.mean()) if len(self.samples) else 0.0

    @property
    def longest_silence(self) -> float:
        """Seconds of the longest silent stretch that is not at the end."""
        loud = np.flatnonzero(~self._silent)
        gaps = np.diff(loud, prepend=-1) - 1
        return float(gaps.max(initial=0)) * WINDOW_SECONDS

    @property
    def silence_at_end(self) -> float:
        """Seconds of silence at the end."""
        loud = np.flatnonzero(~self._silent)
        return float(len(self._silent) - 1 - loud[-1] if len(loud) else len(self._silent)) * (
            WINDOW_SECONDS
        )

    @property
    def is_silent(self) -> bool:
        """Whether nothing can be heard."""
        return bool(self._silent.all())

    @property
    def _scaled(self) -> npt.NDArray[np.float64]:
        return self.samples.astype(np.float64) / FULL_SCALE

    @property
    def _silent(self) -> npt.NDArray[np.bool_]:
        """For each window of WINDOW_SECONDS whether it is silent."""
        size = int(self.rate * WINDOW_SECONDS)
        starts = np.arange(0, len(self.samples), size)
        if not len(starts):
            return np.zeros(0, bool)
        sums = np.add.reduceat(self._scaled**2, starts)
        counts = np.minimum(size, len(self.samples) - starts)
        return np.asarray(np.sqrt(sums / counts) < SILENCE)


def spectrum(sound: Sound) -> tuple[float, float]:
    """Return two shares of a sound's energy: above 4 kHz, and in its strongest band of 100 Hz.

    Frequencies below 20 Hz do not count. Both are 0 for sound without any other frequency.
    """
    samples = sound.samples.astype(np.float64)
    power = np.abs(np.fft.rfft((samples - samples.mean()) * np.hanning(len(samples)))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / sound.rate)
    power[frequencies < 20] = 0
    if not (total := float(power.sum())):
        return 0.0, 0.0
    bands = np.bincount((frequencies // 100).astype(int), power)
    # The strongest 100 Hz may span two bands.
    shifted = np.bincount(((frequencies + 50) // 100).astype(int), power)
    return (
        float(power[frequencies > 4000].sum()) / total,
        float(max(bands.max(), shifted.max())) / total,
    )


def similarity(one: Sound, other: Sound) -> float:
    """Return the correlation of two sounds of one length and rate; 0 if one is constant."""
    length = min(len(one.samples), len(other.samples))
    left, right = (x.samples[:length].astype(np.float64) for x in (one, other))
    if not length or not left.std() or not right.std():
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])


def syllables() -> npt.NDArray[np.int16]:
    """Return three seconds of made speech: four syllables a second at 150 Hz."""
    time_s = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    swell = np.sin(np.pi * (4 * time_s % 1))
    pitch = sum(np.sin(2 * np.pi * 150 * n * time_s) / n for n in (1, 2, 3))
    return np.asarray(8_000 * swell * pitch, "<i2")


def wav(samples: npt.NDArray[np.int16], rate: int = SAMPLE_RATE) -> bytes:
    """Return a WAV file of mono samples."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()
