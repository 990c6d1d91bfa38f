"""Checks under load and without any: requests at once, idle processor, memory."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from higgs_image import process
from higgs_image.smoke import transcript
from higgs_image.smoke.checks.model import (
    TEXT,
    CheckFailedError,
    ImageUnderTest,
    UndecidedError,
    figures,
    sound_of,
)
from higgs_image.smoke.client import TimedAnswer
from higgs_image.smoke.record import Measured

AT_ONCE = 8
LISTENERS = 24
"""Requests with one voice at once: between 8 and 28 of them share their prompt's attention on the
cards on which that could go wrong, and a cache that is too small preempts some."""
LISTENERS_TEXT = (
    "When the rain finally came it came all at once, and the dry river behind the school was loud "
    "enough to hear indoors. Nobody said a word until the last bell, and then everybody ran down "
    "to the bridge to see it, teachers and all."
)
"""Fifteen seconds, so that most of an answer is spoken while all the others are."""
HEARD = 4
"""Recordings of the listeners that a recognizer hears; each takes it some seconds."""
IDLE_SECONDS = 6.0
REPEATED = 16
"""Requests after which memory must not have grown."""


def at_once(image: ImageUnderTest) -> Measured:
    """Eight requests at once are all answered, each with the length of its own text."""
    image.choose_voice()
    inputs = [TEXT + " And on." * number for number in range(AT_ONCE)]
    started = time.monotonic()
    answers = _speak_all(image, inputs)
    seconds = time.monotonic() - started
    total = sum(_lengths(image, inputs, answers))
    return {
        "seconds": round(seconds, 2),
        "audio_s": round(total, 2),
        "real_time_factor": round(seconds / total, 3),
        "slowest_first_audio_s": round(max(answer.first_s for answer in answers), 2),
    }


def listeners(image: ImageUnderTest) -> Measured:
    """24 listeners of one voice are all served in time; the cache of the engine holds them all."""
    image.choose_voice()
    cache = re.findall(rb"GPU KV cache size: ([\d,]+) tokens", image.server.all_logs())
    if not cache and image.place != "pod":  # whose log may begin late
        raise CheckFailedError("the log does not have the size of the KV cache")
    inputs = [LISTENERS_TEXT if image.real else TEXT] * LISTENERS
    before, started = _preemptions(image), time.monotonic()
    answers = _speak_all(image, inputs)
    seconds, preemptions = time.monotonic() - started, _preemptions(image) - before
    lengths = _lengths(image, inputs, answers)
    measured: Measured = {
        "requests": LISTENERS,
        "seconds": round(seconds, 2),
        "audio_s": round(sum(lengths), 2),
        "slowest_listener": round(
            max(answer.seconds / x for answer, x in zip(answers, lengths, strict=True)), 3
        ),
        "preemptions": preemptions,
    }
    if cache:
        measured["kv_cache_tokens"] = int(cache[-1].replace(b",", b""))
    if image.real:
        measured |= _heard(image, answers[:HEARD])
    return measured


def _speak_all(image: ImageUnderTest, inputs: Sequence[str]) -> list[TimedAnswer]:
    """Return the answers to texts that are all sent at once."""
    pool = ThreadPoolExecutor(len(inputs))
    try:
        return list(pool.map(lambda text: image.speak(input=text), inputs))
    finally:  # Ctrl-C does not wait for answers
        pool.shutdown(wait=False, cancel_futures=True)


def _lengths(
    image: ImageUnderTest, inputs: Sequence[str], answers: Sequence[TimedAnswer]
) -> list[float]:
    """Return the seconds of each answer's sound, after judging it by its text."""
    lengths = []
    for text, answer in zip(inputs, answers, strict=True):
        found = sound_of(answer, "wav")
        measured = figures(answer, found, text)
        image.judge({name: measured[name] for name in ("length_ratio", "length_error_s")})
        lengths.append(found.seconds)
    return lengths


def _preemptions(image: ImageUnderTest) -> int:
    """Return how often the engine has taken a running request's memory away."""
    text = image.client.get("/metrics").body.decode(errors="replace")
    found = re.findall(r"^vllm:num_preemptions_total(?:\{.*\})? (\S+)$", text, re.MULTILINE)
    if not found:
        raise CheckFailedError("/metrics does not have vllm:num_preemptions_total")
    return sum(int(float(count)) for count in found)


def _heard(image: ImageUnderTest, answers: Sequence[TimedAnswer]) -> Measured:
    """Return the most word errors of a few answers; nothing without a recognizer."""
    errors = []
    for number, answer in enumerate(answers, 1):
        recording = image.folder / f"listener-{number}.wav"
        recording.write_bytes(answer.body)
        try:
            heard = transcript.transcribe(recording)
        except transcript.NoRecognizerError:
            return {}
        errors.append(transcript.word_error_rate(LISTENERS_TEXT, heard))
    return {"word_errors": round(max(errors), 3)}


def gpu_memory(image: ImageUnderTest) -> Measured:
    """The server's process stays within the GPU memory that the engine leaves it."""
    if not image.real:
        raise UndecidedError("the CPU device has no GPU memory")
    query = ("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    listed = process.ask("nvidia-smi", *query).out
    used = {int(pid): int(mib) for pid, mib in re.findall(r"^(\d+), (\d+)$", listed, re.MULTILINE)}
    found = [used[pid] for pid in image.server.process_ids() if pid in used]
    if len(found) < 2:
        raise UndecidedError("nvidia-smi does not list the processes of the server here")
    return {"server_gpu_mib": found[0], "engine_gpu_mib": sum(found[1:])}


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
