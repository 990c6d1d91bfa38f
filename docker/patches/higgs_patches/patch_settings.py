"""Settings that the patches read from the environment, as data.

The documentation's table and the patches read the same entries. This module imports nothing of the
server, so that the entrypoint and the tests can read it anywhere.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class PatchSetting(Generic[_T]):
    """An environment variable of the server.

    Attributes:
        variable: its name.
        default: the text that stands for an absent or empty variable.
        values: what is allowed, for a person.
        meaning: what it does, for a person.
        parse: text to value; raises ValueError.
    """

    variable: str
    default: str
    values: str
    meaning: str
    parse: Callable[[str], _T]

    def read(self, environ: Mapping[str, str] | None = None) -> _T:
        """Return the value.

        Raises:
            ValueError: the variable is not what `values` allows.
        """
        text = (os.environ if environ is None else environ).get(self.variable, "").strip()
        try:
            return self.parse(text or self.default)
        except ValueError:
            raise ValueError(f"{self.variable} is {text!r}; expected {self.values}") from None


def number(variable: str, default: str, meaning: str, low: float) -> PatchSetting[float]:
    """Return the setting of a finite number that is not below `low`."""

    def parse(text: str) -> float:
        if not low <= (value := float(text)) < math.inf:
            raise ValueError(text)
        return value

    return PatchSetting(variable, default, f"a number from {low:g}", meaning, parse)


def whole_number(
    variable: str, default: str, meaning: str, low: int, high: int
) -> PatchSetting[int]:
    """Return the setting of a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= (value := int(text[:12])) <= high:
            raise ValueError(text)
        return value

    return PatchSetting(variable, default, f"a whole number from {low} to {high}", meaning, parse)


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


def _hosts(text: str) -> frozenset[str]:
    names = text.lower().split(",")
    return frozenset(name.strip().rstrip(".") for name in names if name.strip())


def _format(text: str) -> str:
    if text not in ("pcm", "wav", "mp3", "flac", "opus", "aac"):
        raise ValueError(text)
    return text


MAX_INPUT_CHARACTERS = whole_number(
    "HIGGS_MAX_INPUT_CHARACTERS", "4096",
    "longest `input` and `instructions` of a speech request", 1, 1_000_000,
)  # fmt: skip
MAX_TOKENS_FACTOR = number(
    "HIGGS_MAX_TOKENS_FACTOR", "2.5",
    "default of `max_tokens`: this many times the length of normal speech, plus 4 s", 0.1,
)  # fmt: skip
DEFAULT_RESPONSE_FORMAT: PatchSetting[str] = PatchSetting(
    "HIGGS_DEFAULT_RESPONSE_FORMAT", "mp3", "pcm, wav, mp3, flac, opus or aac",
    "`response_format` of speech requests that name none", _format,
)  # fmt: skip
RAS_WINDOW = whole_number(
    "HIGGS_RAS_WIN_LEN", "7",
    "repetition-aware sampling: window in frames, 25 a second; 0 turns it off", 0, 250,
)  # fmt: skip
RAS_REPEATS = whole_number(
    "HIGGS_RAS_WIN_MAX_NUM_REPEAT", "2",
    "repetition-aware sampling: repeats of a code in the window of its codebook", 1, 250,
)  # fmt: skip
ALLOWED_MEDIA_HOSTS: PatchSetting[frozenset[str]] = PatchSetting(
    "HIGGS_ALLOWED_MEDIA_HOSTS", "", "host names, separated by commas",
    "hosts from which a chat request's reference audio may be fetched", _hosts,
)  # fmt: skip
MAX_REFERENCE_SECONDS = number(
    "HIGGS_MAX_REFERENCE_SECONDS", "60", "longest reference audio of a chat request", 0.1
)
CODEC_MEMORY_MIB = whole_number(
    "HIGGS_CODEC_MEMORY_MIB", "0",
    "GPU memory that the audio tokenizer may allocate, in MiB; 0: no limit. By default as the GPU "
    "has room", 0, 1_000_000,
)  # fmt: skip
ENGINE_TIMEOUT_SECONDS = number(
    "HIGGS_ENGINE_TIMEOUT_SECONDS", "60",
    "time without any output of the engine, while requests run, after which /health and /ping are "
    "503; 0: never", 0,
)  # fmt: skip
AUDIO_STEPS: PatchSetting[bool] = PatchSetting(
    "HIGGS_AUDIO_STEPS", "0", "0 or 1",
    "1: steps of audio alone leave the networks for text out; not yet tested on a GPU",
    _switch,
)  # fmt: skip
SEMANTIC_MODEL_PATH: PatchSetting[str] = PatchSetting(
    "HIGGS_SEMANTIC_MODEL_PATH", "", "a folder",
    "the audio tokenizer's semantic model (HuBERT), if not the one in its own file", str,
)  # fmt: skip

SETTINGS: tuple[PatchSetting[Any], ...] = (
    MAX_INPUT_CHARACTERS,
    MAX_TOKENS_FACTOR,
    DEFAULT_RESPONSE_FORMAT,
    RAS_WINDOW,
    RAS_REPEATS,
    ALLOWED_MEDIA_HOSTS,
    MAX_REFERENCE_SECONDS,
    CODEC_MEMORY_MIB,
    ENGINE_TIMEOUT_SECONDS,
    AUDIO_STEPS,
    SEMANTIC_MODEL_PATH,
)
"""All of them, in the order of the documentation."""
