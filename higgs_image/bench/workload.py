"""What is spoken: a reproducible mix of texts and voices, the same for every run with one seed."""

from __future__ import annotations

import base64
import functools
import io
import random
import tomllib
import wave
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from higgs_image.errors import UsageError
from higgs_image.smoke.sound import syllables, wav

SENTENCES = Path(__file__).with_name("texts.toml")

SIZES = {"short": 1, "medium": 3, "long": 8}
"""Sentences of a text."""

VoiceMix = Literal["one", "many", "cloned"]

ONE_VOICE = (
    "one voice: its recording, nearly all of each prompt (99 %), is in the server's prefix cache "
    "after the first request; use --voices many or cloned for users with voices of their own"
)


class Spoken(msgspec.Struct, frozen=True):
    """A text of the mix.

    Attributes:
        text: as it is sent.
        size: short, medium or long; `own` for the line of a user's file.
        language: ISO 639 code; empty if it is not known.
    """

    text: str
    size: str
    language: str = ""


class Reference(msgspec.Struct, frozen=True):
    """A recording of a voice to speak with.

    Attributes:
        wav: a WAV file of 16 bits, mono.
        text: what is said in it.
    """

    wav: bytes
    text: str


class Item(msgspec.Struct, frozen=True):
    """What one request speaks.

    Attributes:
        index: of the request within its level; with the seed it decides all else.
        spoken: the text.
        voice: name of the voice.
        reference: recording to clone; None: the voice has its own.
    """

    index: int
    spoken: Spoken
    voice: str
    reference: Reference | None = None


class Workload(msgspec.Struct, frozen=True):
    """A mix of texts and voices.

    Attributes:
        texts: each is spoken equally often.
        voices: likewise.
        seed: of the order.
        reference: recording that every request sends, each time with other lowest bits so that no
            cache knows it; None: none is sent.
    """

    texts: tuple[Spoken, ...]
    voices: tuple[str, ...]
    seed: int = 0
    reference: Reference | None = None

    def item(self, index: int) -> Item:
        """Return what a request speaks; the same index gives the same item in every run."""
        spoken = self.texts[_shuffled("text", self.seed, index, len(self.texts))]
        voice = self.voices[_shuffled("voice", self.seed, index, len(self.voices))]
        return Item(index, spoken, voice, self.reference and _unheard(self.reference, index))


def _shuffled(what: str, seed: int, index: int, count: int) -> int:
    """Return a number below count: all of them come once in each row of `count` indices."""
    block, place = divmod(index, count)
    return _order(what, seed, block, count)[place]


@functools.lru_cache(maxsize=256)
def _order(what: str, seed: int, block: int, count: int) -> list[int]:
    numbers = list(range(count))
    random.Random(f"{what}:{seed}:{block}").shuffle(numbers)  # noqa: S311 (a mix, no secret)
    return numbers


def _unheard(reference: Reference, index: int) -> Reference:
    """Return a recording that sounds the same and that no cache has."""
    with wave.open(io.BytesIO(reference.wav)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        rate = file.getframerate()
    bits = np.random.default_rng(abs(index) * 2 + (index < 0)).integers(0, 2, len(samples))
    return Reference(wav((samples & ~1) | bits.astype("<i2"), rate), reference.text)


def default_reference() -> Reference:
    """Return a made recording of three seconds: loads the server as a real one does."""
    return Reference(wav(syllables()), "One two three four, and on.")


def read_reference(path: Path, text: str) -> Reference:
    """Read a recording.

    Raises:
        UsageError: it is not a mono WAV file of 16 bits, or nobody said what is spoken in it.
    """
    if not text.strip():
        raise UsageError(f"--reference {path} comes without its text", "add --reference-text '...'")
    try:
        with wave.open(str(path)) as file:
            found = (file.getnchannels(), file.getsampwidth())
    except (wave.Error, EOFError) as error:
        found, why = (0, 0), str(error)
    else:
        why = f"{found[0]} channels of {8 * found[1]} bits"
    if found != (1, 2):
        raise UsageError(f"--reference {path}: expected a mono WAV file of 16 bits, got {why}",
                         "convert it: ffmpeg -i FILE -ac 1 -c:a pcm_s16le voice.wav")  # fmt: skip
    return Reference(path.read_bytes(), text)


def default_texts(sizes: tuple[str, ...], languages: tuple[str, ...] = ()) -> tuple[Spoken, ...]:
    """Return the texts of the built-in mix.

    Args:
        sizes: of SIZES.
        languages: empty: all.

    Raises:
        UsageError: there is no such language.
    """
    known = tomllib.loads(SENTENCES.read_text(encoding="utf-8"))
    for language in languages:
        if language not in known:
            raise UsageError(f"unknown language: {language}", f"available: {', '.join(known)}")
    found = []
    for language in languages or tuple(known):
        sentences = known[language]
        glue = "" if language == "zh" else " "
        for size in sizes:
            count = SIZES[size]
            for start in range(0, len(sentences), count):
                row = [sentences[(start + n) % len(sentences)] for n in range(count)]
                found.append(Spoken(glue.join(row), size, language))
    return tuple(found)


def read_texts(path: Path) -> tuple[Spoken, ...]:
    """Return the lines of a file as texts; empty lines do not count.

    Raises:
        UsageError: it has none, or is not UTF-8.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8", "save it as UTF-8, one text in a line") from None
    if not any(lines):
        raise UsageError(f"{path} has no text", "write one text in a line")
    return tuple(Spoken(line, "own") for line in lines if line)


def data_url(reference: Reference) -> str:
    """Return a recording as a data: URL."""
    return f"data:audio/wav;base64,{base64.b64encode(reference.wav).decode()}"
