"""The voices in a directory, read and checked, and read again when a file has changed.

A directory of voices holds `config.json`, an object that gives each voice by its name:

    {"me": {"audio_file": "me.mp3", "transcript": "The words that are said in it."},
     "calm": {"system_prompt": "A calm, deep voice."}}

and may hold `aliases.json`, other names for voices; null takes one of the default names away:

    {"alloy": "me", "narrator": "belinda", "onyx": null}

Both are UTF-8. What cannot be used is left out and named in the log with the reason, once; a file
that was good and no longer is keeps its last good content. A user's directory adds to the shipped
voices, and a voice of the same name replaces the shipped one.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from higgs_patches.lib.voices import recording
from higgs_patches.lib.voices.recording import VoiceError
from higgs_patches.lib.voices.voice import Voice, Voices

log = logging.getLogger("vllm.higgs_patches.voices")  # vLLM's handler shows what is below "vllm"

KNOWN_ALIASES = {
    "default": "en_woman",
    "en_woman_1": "en_woman",
    "en_man_1": "en_man",
    "zh_man_1": "zh_man_sichuan",
    "hogwarts_v2": "broom_salesman",
    "alloy": "en_woman",
    "ash": "en_man",
    "ballad": "broom_salesman",
    "cedar": "en_man",
    "coral": "belinda",
    "echo": "en_man",
    "fable": "broom_salesman",
    "marin": "en_woman",
    "nova": "belinda",
    "onyx": "broom_salesman",
    "sage": "mabel",
    "shimmer": "mabel",
    "verse": "chadwick",
}
"""Other servers' names to the shipped voice that is nearest in sex and pitch: OpenAI's, and those
that the fork's own clients and examples ask for.

Median pitch of the shipped English voices: broom_salesman 104 Hz, en_man 135, chadwick 167,
belinda 210, en_woman 221, mabel 229. vex is a cartoon character, zh_man_sichuan speaks Chinese."""

SPECIAL_TOKEN = re.compile(r"<\|(?!scene_desc_(?:start|end)\|>)[^<>|\s]+\|>")
"""Written by the server itself; in a voice's text it would break the prompt."""

Fingerprint = tuple[int, ...] | None
"""What changes with a file's content; None if there is no such file."""


def fingerprint(path: Path) -> Fingerprint:
    """Return what tells one content of a file from the next, without reading it."""
    try:
        stat = path.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@dataclass
class _File:
    """A JSON object in a file, read again when it has changed."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)
    seen: Fingerprint = None
    looked: bool = False

    def refresh(self, needed: bool) -> None:
        """Read the file if it has changed; what cannot be read leaves the content as it was."""
        now = fingerprint(self.path)
        if self.looked and now == self.seen:
            return
        self.looked, self.seen = True, now
        problem = ""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8-sig"))
            if not isinstance(content, dict):
                raise ValueError("it is not a JSON object")  # noqa: TRY004 (the text is logged)
            self.content = content
        except FileNotFoundError:
            if needed:
                problem = "it does not exist"
            else:
                self.content = {}
        except (OSError, ValueError, RecursionError) as error:
            problem = str(error)
        if problem:
            kept = "; what it said before stays in use" if self.content else ""
            log.error("Voices: %s cannot be used: %s%s", self.path, problem, kept)


class _Folder:
    """One directory of voices."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow links)
        self.config = _File(self.path / "config.json")
        self.aliases = _File(self.path / "aliases.json")
        self.voices: dict[str, Voice] = {}
        self._loaded: dict[str, tuple[str, Fingerprint]] = {}

    def refresh(self) -> None:
        """Read what has changed."""
        self.aliases.refresh(needed=False)
        self.config.refresh(needed=not self.aliases.content)
        known = self.config.content
        for name in [name for name in self._loaded if name not in known]:
            del self._loaded[name]
        voices = {}
        for name, entry in known.items():
            key = json.dumps(entry, sort_keys=True), self._audio_fingerprint(entry)
            voice = self.voices.get(name)
            if self._loaded.get(name) != key:
                self._loaded[name] = key
                try:
                    voice = self._load(name, entry)
                except VoiceError as reason:
                    kept = "; it stays as it was before" if voice else ", and is left out"
                    log.warning("Voices: %r cannot be used%s: %s", name, kept, reason)
            if voice:
                voices[name] = voice
        self.voices = voices

    def _audio_fingerprint(self, entry: object) -> Fingerprint:
        name = entry.get("audio_file") if isinstance(entry, dict) else None
        return fingerprint(self.path / name) if isinstance(name, str) else None

    def _load(self, name: str, entry: object) -> Voice:
        if not name.strip():
            raise VoiceError("its name is empty")
        if not isinstance(entry, dict):
            raise VoiceError("it is not a JSON object with audio_file and transcript")
        prompt = _text(entry, "system_prompt")
        if prompt:
            return Voice(name, "", b"", prompt)
        transcript = _text(entry, "transcript")
        if not transcript:
            raise VoiceError("it has no transcript: give the words that are said in its audio")
        audio = _text(entry, "audio_file")
        if not audio:
            raise VoiceError(f"it has no audio_file: name a file in {self.path}")
        return Voice(name, transcript, recording.read(self._inside(audio)))

    def _inside(self, name: str) -> Path:
        """Return the path of a file in this directory, and refuse one elsewhere."""
        path = Path(os.path.normpath(self.path / name))
        if not path.is_relative_to(self.path) or "\0" in name:
            raise VoiceError(f"audio_file {name!r} is not in {self.path}: put it there")
        return path


def _text(entry: dict[str, Any], key: str) -> str:
    """Return a text, stripped; an absent one is empty."""
    value = entry.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise VoiceError(f"its {key} is {value!r}, not a text")
    if token := SPECIAL_TOKEN.search(value):
        raise VoiceError(f"its {key} has {token[0]}, which only the server may write")
    return value.strip()


class VoiceLibrary:
    """The voices of several directories as one.

    Args:
        folders: directories of voices; an earlier one wins where two have the same name.

    Attributes:
        voices: all that can be used; replaced as a whole by `refresh`.
    """

    def __init__(self, *folders: Path) -> None:
        self._folders = [_Folder(path) for path in dict.fromkeys(folders)]
        self._aliases: dict[str, Any] | None = None
        self.voices = Voices({}, problem="they have not been read yet")

    def refresh(self) -> bool:
        """Read what has changed on disk. Returns whether there is anything new."""
        for folder in self._folders:
            folder.refresh()
        voices = _first_wins(self._folders, lambda folder: folder.voices)
        wanted = _first_wins(self._folders, lambda folder: folder.aliases.content)
        if voices == dict(self.voices) and wanted == self._aliases:
            return False
        self._aliases = wanted
        places = " and ".join(str(folder.path) for folder in self._folders)
        problem = f"none in {places} could be used; its log gives the reasons"
        self.voices = Voices(voices, _aliases(voices, wanted), "" if voices else problem)
        self._say()
        return True

    def _say(self) -> None:
        log.info("Voices: %s", ", ".join(self.voices) or "none")
        pairs = [f"{alias} = {name}" for alias, name in self.voices.aliases.items()]
        log.info("Other names of voices: %s", ", ".join(pairs) or "none")


def _first_wins(folders: list[_Folder], what: Callable[[_Folder], dict[str, Any]]) -> Any:
    merged: dict[str, Any] = {}
    for folder in folders:
        for key, value in what(folder).items():
            merged.setdefault(key, value)
    return merged


def _aliases(voices: dict[str, Voice], wanted: dict[str, Any]) -> dict[str, str]:
    """Return every alias with the voice that it stands for; a voice's own name is none."""
    aliases = {}
    for alias, target in (KNOWN_ALIASES | wanted).items():
        if alias in voices or target is None:
            continue
        if not isinstance(target, str) or target not in voices:
            if alias in wanted:
                log.warning("Voices: %r is to mean %r, and no voice is called so", alias, target)
            if alias not in KNOWN_ALIASES or not voices:
                continue
            target = KNOWN_ALIASES[alias] if KNOWN_ALIASES[alias] in voices else next(iter(voices))
        aliases[alias] = target
    return aliases
