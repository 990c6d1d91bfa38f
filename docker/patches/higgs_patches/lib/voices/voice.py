"""Voices, and how a request finds one by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

LONGEST_SHOWN = 60
"""Characters of a name that an error repeats."""


@dataclass(frozen=True)
class Voice:
    """A voice that has been read, checked and found good.

    Attributes:
        name: the name that a request gives.
        transcript: what is said in `audio`; empty where there is no audio.
        audio: a WAV file (mono, 16 bit, 24 kHz, at most 30 s); empty for a voice that has a
            system prompt, since the server then sends no reference audio.
        system_prompt: describes the voice in words instead, for models trained so.
    """

    name: str
    transcript: str
    audio: bytes = field(repr=False)
    system_prompt: str | None = None


class UnknownVoiceError(ValueError):
    """A request named an unknown voice; the text lists the known ones."""


class Voices(Mapping[str, Voice]):
    """The voices of a server: a mapping of names to voices, in the order of their files.

    Aliases are not among the keys: they are other names that `resolve` accepts.

    Args:
        voices: name to voice.
        aliases: another name to the name of a voice.
        problem: why there is no voice at all, for the answer to a request.
    """

    def __init__(
        self,
        voices: Mapping[str, Voice],
        aliases: Mapping[str, str] | None = None,
        problem: str = "",
    ) -> None:
        self._voices = dict(voices)
        self.aliases: Mapping[str, str] = MappingProxyType(dict(aliases or {}))
        self.problem = problem

    def __getitem__(self, name: str) -> Voice:
        """Return the voice with this very name."""
        return self._voices[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of voices."""
        return iter(self._voices)

    def __len__(self) -> int:
        """Return how many voices there are."""
        return len(self._voices)


def resolve(voices: Voices, name: str) -> Voice:
    """Return the voice that a request names, by its own name or by an alias.

    Raises:
        UnknownVoiceError: there is none with that name. The text is meant for the client (400).
    """
    if name in voices:
        return voices[name]
    if name in voices.aliases:
        return voices[voices.aliases[name]]
    if not voices:
        reason = f": {voices.problem}" if voices.problem else ""
        raise UnknownVoiceError(f"this server has no voices{reason}")
    known = f"Voices: {', '.join(voices)}."
    if voices.aliases:
        known += f" Other names for them: {', '.join(voices.aliases)}."
    shown = name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}..."
    raise UnknownVoiceError(f"voice {shown!r} is unknown. {known}")
