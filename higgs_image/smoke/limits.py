"""The limits of everything that a smoke test measures, for each device type, with the reasons."""

from __future__ import annotations

from dataclasses import dataclass

from higgs_image import table
from higgs_image.audio import FRAMES_PER_SECOND
from higgs_image.smoke.record import DeviceType, Measured

PAUSE_SECONDS = 0.4
CHARACTERS_PER_SECOND = 15
"""Bytes of text spoken in a second, beside a pause: belinda speaks 3,000 characters in 200 s, and
the CPU device ends speech by this very rule (fakes/cpu_device/higgs_cpu/speech.py)."""


def expected_seconds(text: str) -> float:
    """Return how long a text is spoken, in whole frames of the codec."""
    seconds = PAUSE_SECONDS + len(text.encode()) / CHARACTERS_PER_SECOND
    return round(FRAMES_PER_SECOND * seconds) / FRAMES_PER_SECOND


@dataclass(frozen=True)
class Range:
    """An inclusive range; None is no bound."""

    low: float | None = None
    high: float | None = None

    def __contains__(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.low is None:
            return "any" if self.high is None else f"at most {self.high:g}"
        return f"at least {self.low:g}" if self.high is None else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Limit:
    """The limit of a figure.

    Attributes:
        meaning: of the figure, with its unit.
        gpu: with real weights on a GPU.
        cpu: with random weights on the CPU device.
        reason: for these values.
    """

    meaning: str
    gpu: Range
    cpu: Range
    reason: str


NO_LIMIT = Range()

LIMITS: dict[str, Limit] = {
    "answer_s": Limit(
        "time of GET /health, s", Range(high=2), Range(high=5),
        "load balancers ask every few seconds and give up after as many",
    ),
    "length_ratio": Limit(
        "length of the sound / expected length", Range(0.65, 1.6), Range(0.9, 1.15),
        "real speakers vary by a third; sound at half or double speed does not fit",
    ),
    "length_error_s": Limit(
        "length of the sound - expected length, s", NO_LIMIT, Range(-0.03, 0.15),
        "the CPU device is exact to a frame (0.04 s); MP3 and AAC pad by up to two blocks",
    ),
    "first_audio_s": Limit(
        "time to the first sound of one request, s", Range(high=5), Range(high=15),
        "measured 0.1 to 0.7 on two busy cores, expected 0.3 on a GPU",
    ),
    "slowest_first_audio_s": Limit(
        "the same, slowest of 8 requests at once, s", Range(high=10), Range(high=25),
        "eight times one request at worst, as they share the device",
    ),
    "slowest_listener": Limit(
        "time of the slowest of 24 answers at once / length of its sound", Range(high=1),
        Range(high=25), "above 1 somebody hears gaps; 24 times one request at worst on a CPU",
    ),
    "preemptions": Limit(
        "requests of these whose memory the engine took away", Range(high=0), Range(high=0),
        "24 answers of 15 s hold 17,000 tokens, less than half of the smallest cache",
    ),
    "kv_cache_tokens": Limit(
        "tokens that the engine's cache holds, from its log", Range(low=40_000),
        Range(low=40_000),
        "46,000 are planned for an L4 (higgs_runtime/gpu_memory.py); the CPU device has 131,072",
    ),
    "real_time_factor": Limit(
        "time of an answer / length of its sound", Range(high=1), Range(high=5),
        "above 1 a listener hears gaps; two busy cores measure 0.15 to 0.4",
    ),
    "loudness": Limit(
        "root mean square of full scale 1", Range(0.01, 0.35), Range(0.055, 0.12),
        "speech has 0.03 to 0.2; the CPU device's random weights give 0.080, MP3 0.075",
    ),
    "offset": Limit(
        "distance of the mean sample from 0, of full scale 1", Range(high=0.01), Range(high=0.005),
        "a codec adds none; the CPU device measures 0.001",
    ),
    "clipped": Limit(
        "share of samples at the limits of 16 bits", Range(high=0.001), Range(high=0.001),
        "a few samples are not audible as distortion; peaks are 0.8 on the CPU device",
    ),
    "longest_silence_s": Limit(
        "longest silence within the sound, s", Range(high=2.0), Range(high=0.2),
        "one sentence has no longer pause; the CPU device's sound is never silent",
    ),
    "silence_at_end_s": Limit(
        "silence at the end, s", Range(high=1.5), Range(high=0.2),
        "a listener waits for it before the next turn",
    ),
    "above_4_khz": Limit(
        "share of the energy above 4 kHz", Range(high=0.5), Range(0.8, 0.97),
        "speech has most of it below, white noise 0.67; the CPU device has 0.91 to 0.93",
    ),
    "strongest_band": Limit(
        "share of the energy in the strongest band of 100 Hz", Range(high=0.8), Range(high=0.95),
        "a pure tone has all of it",
    ),
    "loudness_ratio_low": Limit(
        "smallest loudness of a format / loudness of WAV", Range(low=0.5), Range(low=0.85),
        "an encoder keeps the level; MP3 loses 8 % of the CPU device's high frequencies",
    ),
    "loudness_ratio_high": Limit(
        "largest loudness of a format / loudness of WAV", Range(high=2), Range(high=1.15),
        "as above; with real weights each answer may be another performance",
    ),
    "similarity": Limit(
        "correlation of two answers to one request with a seed", NO_LIMIT, Range(low=0.95),
        "the CPU device gives the same samples, Opus 0.99; a GPU need not repeat itself exactly",
    ),
    "chunks": Limit(
        "chunks in which streamed PCM arrived", Range(low=2), Range(low=2),
        "one chunk at the end is not a stream",
    ),
    "word_errors": Limit(
        "word error rate of a recognizer", Range(high=0.25), NO_LIMIT,
        "a small recognizer mishears a word of a clear recording now and then",
    ),
    "share_of_core": Limit(
        "processor time of the idle server / time", Range(high=0.05), Range(high=0.05),
        "a polling loop costs a core; the server's own timers cost 0.01",
    ),
    "container_mb": Limit(
        "memory of the container, MB", Range(high=24_000), Range(high=4_000),
        "hosts of 24 GB GPUs have 32 GB; the CPU device measures 1,660",
    ),
    "growth_mb": Limit(
        "growth of that over 16 requests, MB", Range(high=160), Range(high=48),
        "allocators grow in steps: 16 MB were measured; a lost recording is 0.2 MB a request",
    ),
    "gpu_growth_mib": Limit(
        "growth of the GPU's memory over 16 requests, MiB", Range(high=256), NO_LIMIT,
        "vLLM allocates its cache at the start; the codec's workspace may grow once",
    ),
    "server_gpu_mib": Limit(
        "GPU memory of the server's process, MiB", Range(high=4_300), NO_LIMIT,
        "3,345 for the audio tokenizer (HIGGS_CODEC_MEMORY_MIB), its context and libraries",
    ),
    "stop_s": Limit(
        "time from SIGTERM to the end, s", Range(high=30), Range(high=30),
        "Kubernetes kills after 30 s",
    ),
}  # fmt: skip
"""Every limit, by the name of the figure in a record."""

INFORMATION = {
    "at_once": "chosen by the benchmark",
    "audio_per_s": "compared by promote --not-worse-than",
    "audio_tokens_per_s": "25 times audio_per_s",
    "first_sound_p50_s": "judged as first_audio_s",
    "first_sound_p95_s": "compared by promote --not-worse-than",
    "smooth_share": "depends on the card: docs/performance.md",
    "health_s": "judged by --timeout",
    "cpu_s": "depends on the machine",
    "audio_s": "judged as length_ratio and length_error_s",
    "seconds": "judged as real_time_factor",
    "peak": "judged as clipped",
    "bytes": "judged as length and format",
    "models": "compared by the check",
    "voices": "compared by the check",
    "voice": "chosen by the check",
    "requests": "chosen by the check",
    "heard": "judged as word_errors",
    "engine_gpu_mib": "set by --gpu-memory-utilization",
    "gpu_mib": "set by --gpu-memory-utilization; its growth is judged",
}
"""Figures without a limit, and why."""


def violations(measured: Measured, device: DeviceType) -> list[str]:
    """Return the figures that are outside their limits, each as a phrase."""
    found = []
    for name, value in measured.items():
        limit = LIMITS.get(name)
        if limit is None or isinstance(value, str):
            continue
        allowed = limit.gpu if device == "gpu" else limit.cpu
        if value not in allowed:  # NaN is outside every bounded range
            found.append(f"expected {name} {allowed}, got {value:g}")
    return found


def markdown() -> str:
    """Return the limits as a Markdown table for docs/smoke-test.md."""
    heads = ("figure", "meaning", "GPU", "CPU device", "reason")
    rows = [(f"`{k}`", x.meaning, str(x.gpu), str(x.cpu), x.reason) for k, x in LIMITS.items()]
    return table.markdown(heads, rows) + "\n"
