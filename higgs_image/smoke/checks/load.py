"""Checks under load and without any: requests at once, idle processor, memory."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from higgs_image.smoke.checks.model import TEXT, CheckFailedError, ImageUnderTest, figures, sound_of
from higgs_image.smoke.record import Measured

AT_ONCE = 8
IDLE_SECONDS = 6.0
REPEATED = 16
"""Requests after which memory must not have grown."""


def at_once(image: ImageUnderTest) -> Measured:
    """Eight requests at once are all answered, each with the length of its own text."""
    image.choose_voice()
    inputs = [TEXT + " And on." * number for number in range(AT_ONCE)]
    started = time.monotonic()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        answers = list(pool.map(lambda text: image.speak(input=text), inputs))
    finally:  # Ctrl-C does not wait for answers
        pool.shutdown(wait=False, cancel_futures=True)
    seconds = time.monotonic() - started
    total = 0.0
    for text, answer in zip(inputs, answers, strict=True):
        found = sound_of(answer, "wav")
        lengths = figures(answer, found, text)
        image.judge({name: lengths[name] for name in ("length_ratio", "length_error_s")})
        total += found.seconds
    return {
        "seconds": round(seconds, 2),
        "audio_s": round(total, 2),
        "real_time_factor": round(seconds / total, 3),
        "slowest_first_audio_s": round(max(answer.first_s for answer in answers), 2),
    }


def idle_cpu(image: ImageUnderTest) -> Measured:
    """Without requests the server hardly uses the processor."""
    before, started = image.server.cpu_seconds(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    used = image.server.cpu_seconds() - before
    return {"share_of_core": round(used / (time.monotonic() - started), 4)}


def memory(image: ImageUnderTest) -> Measured:
    """Memory stays below its limit, and repeated requests do not make it grow."""
    before, gpu_before = image.server.memory_mb(), _gpu_mib(image)
    for _ in range(REPEATED):
        if (status := image.speak().status) != 200:
            raise CheckFailedError(f"expected status 200, got {status}")
    after, gpu_after = image.server.memory_mb(), _gpu_mib(image)
    image.memory_mb = max(image.memory_mb, after)
    measured: Measured = {
        "container_mb": round(image.memory_mb),
        "growth_mb": round(after - before, 1),
    }
    if gpu_before is not None and gpu_after is not None:
        measured |= {"gpu_mib": gpu_after, "gpu_growth_mib": gpu_after - gpu_before}
    return measured


def _gpu_mib(image: ImageUnderTest) -> int | None:
    query = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
    used = image.server.output_of(*query) if image.real else None
    return sum(map(int, used.split())) if used else None
