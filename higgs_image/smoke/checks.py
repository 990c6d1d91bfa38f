"""The checks: each a small function that looks at the running server and says what it saw.

A check returns what it measured, or raises `Failed` or `Undecided` with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from higgs_image.smoke import audio, transcript
from higgs_image.smoke.audio import BadSound, Sound
from higgs_image.smoke.client import Answer, Client
from higgs_image.smoke.container import Server
from higgs_image.smoke.record import Measured

MODEL = "higgs-audio-v2"
VOICE = "belinda"
"""Asked for where the server has it; else the first one that is not ours."""
OWN_VOICE = "smoke-test"
"""The voice in the folder that is mounted."""

TEXT = "The image starts, answers, and speaks to whoever asks it."
LONG_TEXT = TEXT + " Its answer comes in pieces, so that a listener need not wait for the last one."
FASTEST, SLOWEST, SLACK = 30.0, 6.0, 2.0
"""Characters of text in a second of plausible speech, and seconds more than that."""

AT_ONCE = 8
STOP_SECONDS = 30
IDLE_SHARE = 0.05
"""Of one core, that an idle server may use."""
IDLE_SECONDS = 6.0
LONGEST_SILENCE_AT_END = 1.5
CLIPPED = 0.001
"""Share of samples at the limits that is still no clipping."""
WORD_ERRORS = 0.25


class Failed(Exception):
    """The server does not do what it should."""


class Undecided(Exception):
    """The check could not be made, or cannot decide here."""


@dataclass
class Context:
    """What checks work with, and hand on to later ones.

    Attributes:
        server: the running container.
        folder: takes recordings.
        real: it runs on real weights, so the sound has a meaning.
        voice: the voice to ask for; found out when it is first needed.
        spoken: the sound of each format that was answered well.
        memory_mb: the largest that was seen.
    """

    server: Server
    folder: Path
    real: bool
    voice: str = ""
    spoken: dict[str, Sound] = field(default_factory=dict)
    memory_mb: float = 0.0

    @property
    def client(self) -> Client:
        """Client of the server."""
        return self.server.client


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        name: by which it is reported.
        run: the function.
    """

    name: str
    run: Callable[[Context], Measured]


def health(context: Context) -> Measured:
    """GET /health is 200."""
    answer = context.client.get("/health")
    if answer.status != 200:
        raise Failed(f"/health is {answer.status}")
    return {"answer_s": round(answer.seconds, 3)}


def models(context: Context) -> Measured:
    """GET /v1/models lists the name by which requests call the model."""
    names = [entry["id"] for entry in _json(context, "/v1/models")["data"]]
    if MODEL not in names:
        raise Failed(f"/v1/models has {names}, not {MODEL}")
    return {"models": ", ".join(names)}


def voices(context: Context) -> Measured:
    """GET /v1/audio/voices lists at least one voice; the further checks take one of them."""
    return {"voices": len(_voices(context)), "taken": _voice(context)}


def speech(form: str) -> Callable[[Context], Measured]:
    """Return the check that one request for speech in this format is answered as it should."""

    def check(context: Context) -> Measured:
        """Status, Content-Type, one whole file at 24 kHz mono 16 bit, as long as the text is."""
        answer = _speak(context, response_format=form)
        (context.folder / f"speech.{form}").write_bytes(answer.body)
        found, types = _sound(answer, form), audio.FORMATS[form].types
        if answer.type not in types:
            raise Failed(f"the Content-Type is {answer.type!r}, wanted is {types[0]}")
        _plausible(found, TEXT)
        context.spoken[form] = found
        return _figures(answer, found)

    return check


def streaming(context: Context) -> Measured:
    """PCM comes in more than one piece; when the first one came, and how fast the rest."""
    answer = _speak(context, input=LONG_TEXT, response_format="pcm")
    found = _sound(answer, "pcm")
    _plausible(found, LONG_TEXT)
    if answer.pieces < 2:
        raise Failed(
            f"{found.seconds:.1f} s of sound came in one piece after {answer.seconds:.1f} s"
        )
    return _figures(answer, found) | {"pieces": answer.pieces}


def at_once(context: Context) -> Measured:
    """Eight requests at once are all answered, each with the length of its own text."""
    texts = [TEXT + " And on." * number for number in range(AT_ONCE)]
    started = time.monotonic()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        answers = list(pool.map(lambda text: _speak(context, input=text), texts))
    finally:  # on Ctrl-C nobody waits for answers
        pool.shutdown(wait=False, cancel_futures=True)
    seconds = time.monotonic() - started
    total = 0.0
    for text, answer in zip(texts, answers, strict=True):
        found = _sound(answer, "wav")
        _plausible(found, text)
        total += found.seconds
    return {
        "seconds": round(seconds, 2),
        "audio_s": round(total, 2),
        "slowest_first_audio_s": round(max(answer.first_s for answer in answers), 2),
    }


BAD: Mapping[str, Any] = {
    "empty input": {"input": ""},
    "blank input": {"input": "  \n"},
    "no input": {"input": None},
    "input of 100,000 characters": {"input": "long " * 20_000},
    "voice of the wrong type": {"voice": 7},
    "unknown voice": {"voice": "nobody-speaks-so"},
    "unknown format": {"response_format": "midi"},
    "speed out of range": {"speed": 40},
    "unknown model": {"model": "some-other-model"},
    "no JSON": b'{"input": ',
    "a list": b"[]",
}
"""What makes a good request bad, or a whole body."""


def bad_requests(context: Context) -> Measured:
    """Each bad request gets a 4xx with JSON."""
    wrong = []
    for what, change in BAD.items():
        if isinstance(change, bytes):
            answer = context.client.ask("POST", "/v1/audio/speech", change)
        else:
            answer = context.client.post("/v1/audio/speech", _request(context) | change)
        if not 400 <= answer.status < 500:
            wrong.append(f"{what}: {answer.status}")
        elif answer.type != "application/json":
            wrong.append(f"{what}: {answer.status} as {answer.type or 'nothing'}")
    if wrong:
        raise Failed(f"wanted are 4xx with JSON; {'; '.join(wrong)}")
    return {"requests": len(BAD)}


def custom_voice(context: Context) -> Measured:
    """A voice in a folder that is mounted read-only is listed and speaks."""
    names = _voices(context)
    if OWN_VOICE not in names:
        raise Failed(f"{OWN_VOICE!r} from the mounted folder is not among the voices {names}")
    answer = _speak(context, voice=OWN_VOICE)
    (context.folder / "custom-voice.wav").write_bytes(answer.body)
    found = _sound(answer, "wav")
    _plausible(found, TEXT)
    return _figures(answer, found)


def good_sound(context: Context) -> Measured:
    """The recording is neither silent nor clipped and does not end with a long silence."""
    found = _recording(context)
    figures: Measured = {
        "loudness": round(found.loudness, 4),
        "peak": round(found.peak, 4),
        "clipped": round(found.clipped, 5),
        "longest_silence_s": round(found.longest_silence, 2),
        "silence_at_end_s": round(found.silence_at_end, 2),
    }
    if not context.real:
        raise Undecided("random weights: how it sounds says nothing about the image")
    if found.loudness < audio.SILENCE / audio.FULL_SCALE:
        raise Failed(f"it is silent: {figures}")
    if found.clipped > CLIPPED:
        raise Failed(f"it is clipped: {figures}")
    if found.silence_at_end > LONGEST_SILENCE_AT_END:
        raise Failed(f"it ends with {found.silence_at_end:.1f} s of silence")
    return figures


def right_words(context: Context) -> Measured:
    """A speech recogniser hears the text (where one is installed)."""
    if not context.real:
        raise Undecided("random weights: there are no words in the sound")
    try:
        heard = transcript.hear(context.folder / "speech.wav")
    except transcript.NoRecogniser as error:
        raise Undecided(str(error)) from None
    errors = transcript.word_errors(TEXT, heard)
    if errors > WORD_ERRORS:
        raise Failed(f"{errors:.0%} of the words are wrong: {heard!r}")
    return {"word_errors": round(errors, 3), "heard": heard}


def idle_cpu(context: Context) -> Measured:
    """Without requests the server leaves the processor alone."""
    before, started = context.server.cpu_seconds(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    used = context.server.cpu_seconds() - before
    share = used / (time.monotonic() - started)
    if share >= IDLE_SHARE:
        raise Failed(f"it uses {share:.0%} of a core while idle, less than {IDLE_SHARE:.0%} is due")
    return {"share_of_core": round(share, 4)}


def memory(context: Context) -> Measured:
    """Record how much memory was in use at most."""
    context.memory_mb = max(context.memory_mb, context.server.memory_mb())
    figures: Measured = {"container_mb": round(context.memory_mb)}
    query = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
    if context.real and (used := context.server.output_of(*query)):
        figures["gpu_mib"] = sum(map(int, used.split()))
    return figures


def stop(context: Context) -> Measured:
    """SIGTERM ends it in time, with exit code 0."""
    started = time.monotonic()
    context.server.container.kill("SIGTERM")
    while context.server.state()["Status"] == "running":
        if time.monotonic() - started > STOP_SECONDS:
            raise Failed(f"it still ran {STOP_SECONDS} s after SIGTERM")
        time.sleep(0.1)
    seconds, code = time.monotonic() - started, context.server.state()["ExitCode"]
    if code != 0:
        raise Failed(f"it ended with status {code} on SIGTERM instead of 0")
    return {"seconds": round(seconds, 2)}


CHECKS = (
    Check("health", health),
    Check("models", models),
    Check("voices", voices),
    *(Check(f"speech-{form}", speech(form)) for form in audio.FORMATS),
    Check("sound", good_sound),
    Check("words", right_words),
    Check("streaming", streaming),
    Check("at-once", at_once),
    Check("bad-requests", bad_requests),
    Check("custom-voice", custom_voice),
    Check("idle-cpu", idle_cpu),
    Check("memory", memory),
    Check("health-after", health),
    Check("stop", stop),
)
"""In the order in which they are made, after `start`; record.REQUIRED says which must pass."""

START = "start"
"""The first check of all: the container becomes healthy in time."""


def _request(context: Context) -> dict[str, Any]:
    return {"model": MODEL, "voice": _voice(context), "input": TEXT, "response_format": "wav"}


def _voice(context: Context) -> str:
    if not context.voice:
        names = _voices(context)
        if not names:
            raise Failed("/v1/audio/voices is empty")
        others = [name for name in names if name != OWN_VOICE] or names
        context.voice = VOICE if VOICE in names else others[0]
    return context.voice


def _speak(context: Context, **change: Any) -> Answer:
    answer = context.client.post("/v1/audio/speech", _request(context) | change)
    if answer.status != 200:
        raise Failed(f"a good request got {answer.status}: {answer.body[:300]!r}")
    return answer


def _sound(answer: Answer, form: str) -> Sound:
    try:
        found = audio.read(answer.body, form)
    except BadSound as error:
        raise Failed(f"the {form} answer of {len(answer.body)} bytes: {error}") from None
    if not any(found.samples):
        raise Failed(f"the {form} answer has {found.seconds:.2f} s of samples that are all zero")
    return found


def _plausible(found: Sound, text: str) -> None:
    least, most = len(text) / FASTEST, len(text) / SLOWEST + SLACK
    if not least <= found.seconds <= most:
        raise Failed(
            f"{found.seconds:.2f} s of sound for {len(text)} characters, "
            f"plausible are {least:.1f} to {most:.1f} s"
        )


def _figures(answer: Answer, found: Sound) -> Measured:
    return {
        "audio_s": round(found.seconds, 2),
        "seconds": round(answer.seconds, 2),
        "first_audio_s": round(answer.first_s, 3),
        "real_time_factor": round(answer.seconds / max(found.seconds, 0.001), 3),
        "bytes": len(answer.body),
    }


def _recording(context: Context) -> Sound:
    for form in ("wav", "pcm"):
        if form in context.spoken:
            return context.spoken[form]
    raise Undecided("there is no good recording to look at")


def _json(context: Context, path: str) -> Any:
    answer = context.client.get(path)
    if answer.status != 200:
        raise Failed(f"{path} is {answer.status}")
    return answer.json()


def _voices(context: Context) -> list[str]:
    """Return the voices' names; the fork gives a list of them, patched it gives objects."""
    found = _json(context, "/v1/audio/voices")
    if isinstance(found, dict):
        found = found["voices"]
    return [entry["id"] if isinstance(entry, dict) else str(entry) for entry in found]
