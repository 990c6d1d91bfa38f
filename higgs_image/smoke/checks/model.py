"""A check of the smoke test, the image under test, and the requests that checks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from higgs_image.smoke import audio, limits
from higgs_image.smoke.audio_structure import BadAudioError
from higgs_image.smoke.client import TimedAnswer, TimedClient
from higgs_image.smoke.record import DeviceType, Measured, Place, required
from higgs_image.smoke.sound import Sound

MODEL = "higgs-audio-v2"
VOICE = "belinda"
"""The voice to ask for if the server has it; otherwise the first one that is not OWN_VOICE."""
OWN_VOICE = "smoke-test"
"""The voice in the mounted folder."""
SEED = 7
"""Of requests whose answers are compared."""

TEXT = "The image starts, answers, and speaks to whoever asks it."
OTHER_TEXT = "Another text, of just the same length, says other things."
"""As long as TEXT, so that only its words tell the two apart."""
LONG_TEXT = TEXT + " Its answer comes in pieces, so that a listener need not wait for the last one."


class CheckFailedError(Exception):
    """The server does not do what it should.

    Args:
        reason: in one line.
        measured: what was measured before.
    """

    def __init__(self, reason: str, measured: Measured | None = None) -> None:
        super().__init__(reason)
        self.measured = measured or {}


class UndecidedError(Exception):
    """The check could not run, or cannot decide on this device."""


class ServerUnderTest(ABC):
    """A started server: in a container of this machine's engine, or in a rented pod.

    What a place cannot show raises UndecidedError there.

    Attributes:
        client: of the server.
        has_own_voice: the folder with OWN_VOICE is mounted.
    """

    client: TimedClient
    has_own_voice = True

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it still runs."""

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """Return Status, ExitCode, OOMKilled and RestartCount, as Docker has them."""

    @abstractmethod
    def all_logs(self) -> bytes:
        """Return all of its log, byte for byte."""

    @abstractmethod
    def terminate(self) -> None:
        """Send SIGTERM to its first process."""

    @abstractmethod
    def cpu_seconds(self) -> float:
        """Return the processor time that it has used."""

    @abstractmethod
    def memory_mb(self) -> float:
        """Return the memory in use in MB (10^6 bytes), without page cache that can be dropped."""

    @abstractmethod
    def process_ids(self) -> list[int]:
        """Return its processes, as this machine numbers them; the server before the engine."""

    @abstractmethod
    def output_of(self, *command: str) -> str | None:
        """Return the output of a program that sees its devices; None if that fails."""


@dataclass
class ImageUnderTest:
    """The running server, and what checks pass on to later ones.

    Attributes:
        server: that answers.
        folder: takes recordings.
        device: type of the device; `gpu` means real weights.
        voice: the voice to ask for; chosen when it is first needed.
        spoken: the sound of each format that was answered well, for TEXT.
        reference: the sound of TEXT with SEED; asked for when it is first needed.
        memory_mb: the largest memory that was seen.
        place: where it runs.
    """

    server: ServerUnderTest
    folder: Path
    device: DeviceType
    voice: str = ""
    spoken: dict[str, Sound] = field(default_factory=dict)
    reference: Sound | None = None
    memory_mb: float = 0.0
    place: Place = "engine"

    @property
    def required(self) -> frozenset[str]:
        """Names of the checks that have to pass here."""
        return required(self.device, self.place)

    @property
    def client(self) -> TimedClient:
        """Client of the server."""
        return self.server.client

    @property
    def real(self) -> bool:
        """Whether the weights are real, so that the sound has a meaning."""
        return self.device == "gpu"

    @property
    def seed(self) -> dict[str, int]:
        """The seed of requests that are measured: with one, a GPU cannot use its prefix cache."""
        return {} if self.real else {"seed": SEED}

    def judge(self, measured: Measured) -> Measured:
        """Return figures that are all within the limits of the device.

        Raises:
            CheckFailedError: one is not.
        """
        if found := limits.violations(measured, self.device):
            raise CheckFailedError("; ".join(found), measured)
        return measured

    def json(self, path: str) -> Any:
        """Return the JSON that a path answers with 200.

        Raises:
            CheckFailedError: the status is another one.
        """
        answer = self.client.get(path)
        if answer.status != 200:
            raise CheckFailedError(f"{path}: expected status 200, got {answer.status}")
        return answer.json()

    def voices(self) -> list[str]:
        """Return the names of the voices; the fork lists strings, the patched server objects."""
        found = self.json("/v1/audio/voices")
        if isinstance(found, dict):
            found = found["voices"]
        return [entry["id"] if isinstance(entry, dict) else str(entry) for entry in found]

    def choose_voice(self) -> str:
        """Return the voice to ask for.

        Raises:
            CheckFailedError: the server has no voices.
        """
        if not self.voice:
            names = self.voices()
            if not names:
                raise CheckFailedError("/v1/audio/voices is empty")
            others = [name for name in names if name != OWN_VOICE] or names
            self.voice = VOICE if VOICE in names else others[0]
        return self.voice

    def request(self, **change: Any) -> dict[str, Any]:
        """Return the body of a good request for speech, with changed fields."""
        return {
            "model": MODEL, "voice": self.choose_voice(), "input": TEXT, "response_format": "wav",
        } | change  # fmt: skip

    def speak(self, **change: Any) -> TimedAnswer:
        """Send a good request for speech and return its answer.

        Raises:
            CheckFailedError: the status is not 200.
        """
        answer = self.client.post("/v1/audio/speech", self.request(**change))
        if answer.status != 200:
            raise CheckFailedError(
                f"expected status 200 for a good request, got {answer.status}: "
                f"{answer.body[:300]!r}"
            )
        return answer

    def record(self, name: str, **change: Any) -> tuple[Sound, Measured]:
        """Ask for speech, keep the answer as a file, and return its sound and judged figures.

        Raises:
            CheckFailedError: it is not one whole file, or a figure is outside its limits.
        """
        answer = self.speak(**change)
        form = change.get("response_format", "wav")
        (self.folder / f"{name}.{form}").write_bytes(answer.body)
        sound = sound_of(answer, form)
        return sound, self.judge(figures(answer, sound, change.get("input", TEXT)))


def sound_of(answer: TimedAnswer, form: str) -> Sound:
    """Return the sound of an answer.

    Raises:
        CheckFailedError: it is not one whole file of the format, or all of it is silent.
    """
    try:
        found = audio.read(answer.body, form)
    except BadAudioError as error:
        raise CheckFailedError(f"the {form} answer of {len(answer.body)} bytes: {error}") from None
    if not found.samples.any():
        raise CheckFailedError(f"all samples of the {form} answer ({found.seconds:.2f} s) are zero")
    return found


def figures(answer: TimedAnswer, sound: Sound, text: str) -> Measured:
    """Return length and timing of an answer to a text."""
    expected = limits.expected_seconds(text)
    return {
        "audio_s": round(sound.seconds, 2),
        "length_ratio": round(sound.seconds / expected, 3),
        "length_error_s": round(sound.seconds - expected, 3),
        "seconds": round(answer.seconds, 2),
        "first_audio_s": round(answer.first_s, 3),
        "real_time_factor": round(answer.seconds / max(sound.seconds, 0.001), 3),
        "bytes": len(answer.body),
    }


@dataclass(frozen=True)
class SmokeCheck:
    """A check.

    Attributes:
        name: by which it is reported.
        run: returns what it measured; raises CheckFailedError or UndecidedError.
    """

    name: str
    run: Callable[[ImageUnderTest], Measured]
