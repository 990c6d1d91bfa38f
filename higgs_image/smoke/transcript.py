"""What a speech recogniser hears, where one is installed: the package faster-whisper."""

from __future__ import annotations

import os
import re
from pathlib import Path

MODEL = "base.en"
"""Whisper model that is taken, unless WHISPER_MODEL names another, or a folder."""


class NoRecogniser(Exception):
    """There is no speech recogniser, or it lacks its model."""


def hear(recording: Path) -> str:
    """Return the words in a recording.

    Raises:
        NoRecogniser: faster-whisper or its model is not there.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise NoRecogniser(
            "no speech recogniser is installed: pip install faster-whisper"
        ) from None
    name = os.environ.get("WHISPER_MODEL") or MODEL
    try:
        model = WhisperModel(name, device="cpu", compute_type="int8")
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise NoRecogniser(f"the recogniser's model {name} cannot be loaded: {first}") from None
    segments, _ = model.transcribe(str(recording), language="en")
    return " ".join(segment.text.strip() for segment in segments)


def word_errors(wanted: str, heard: str) -> float:
    """Return the word error rate: words to change, add or leave out, of the wanted ones."""
    left, right = _words(wanted), _words(heard)
    row = list(range(len(right) + 1))
    for number, word in enumerate(left, 1):
        previous, row[0] = row[0], number
        for place, other in enumerate(right, 1):
            cost = min(row[place] + 1, row[place - 1] + 1, previous + (word != other))
            previous, row[place] = row[place], cost
    return row[-1] / max(len(left), 1)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())
