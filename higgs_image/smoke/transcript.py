"""The words that a speech recognizer hears, where the package faster-whisper is installed."""

from __future__ import annotations

import os
from pathlib import Path

MODEL = "base.en"
"""Whisper model, unless WHISPER_MODEL names another one, or a folder."""


class NoRecognizerError(Exception):
    """No speech recognizer is installed, or its model cannot be loaded."""


def transcribe(recording: Path) -> str:
    """Return the words in a recording.

    Raises:
        NoRecognizerError: faster-whisper is not installed, or its model cannot be loaded.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        raise NoRecognizerError(
            "no speech recognizer is installed: pip install faster-whisper"
        ) from None
    name = os.environ.get("WHISPER_MODEL") or MODEL
    try:
        model = WhisperModel(name, device="cpu", compute_type="int8")
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise NoRecognizerError(
            f"the recognizer's model {name} cannot be loaded: {first}"
        ) from None
    segments, _ = model.transcribe(str(recording), language="en")
    return " ".join(segment.text.strip() for segment in segments)


def word_error_rate(expected: str, heard: str) -> float:
    """Return the words to change, add or leave out, as a share of the expected ones."""
    import jiwer

    plain = jiwer.Compose([
        jiwer.ToLowerCase(), jiwer.SubstituteRegexes({r"[^a-z0-9']+": " "}),
        jiwer.RemoveMultipleSpaces(), jiwer.Strip(), jiwer.ReduceToListOfListOfWords(),
    ])  # fmt: skip
    return float(jiwer.wer(expected, heard, plain, plain))
