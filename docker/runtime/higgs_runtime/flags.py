"""Reads the container's arguments: flags of the server, of which some are settings."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from higgs_runtime.errors import SettingError

FLAGS_FILE = Path(__file__).with_name("server_flags.txt")
"""Names of the server's own flags, one on each line."""

_ALIASES = {"-tp": "--tensor-parallel-size", "-q": "--quantization"}
_SEVERAL = "--served-model-name"
"""The one flag of the settings that takes several values."""


class ParsedFlags(NamedTuple):
    """Flags of the server.

    Attributes:
        settings: values of the flags that are settings.
        rest: everything else, unchanged.
        names: names of the flags in `rest`, with their values; empty: a flag without one.
    """

    settings: dict[str, str]
    rest: list[str]
    names: dict[str, str]


def split(arguments: Sequence[str]) -> list[str]:
    """Split an argument that holds a whole command line, as platforms with a single field send it.

    Raises:
        SettingError: a quotation mark is missing.
    """
    tokens: list[str] = []
    for argument in arguments:
        try:
            words = shlex.split(argument) if re.match(r"\s*-", argument) else [argument]
        except ValueError as error:
            words = [argument]
            if _is_command_line(argument, argument.split()):
                flag = re.split(r"[\s=]", argument.strip(), maxsplit=1)[0]
                raise SettingError(  # without the value, which may be a secret
                    f"the argument that begins with {flag} cannot be read: {error}",
                    "write it as in a shell",
                ) from None
        tokens += words if _is_command_line(argument, words) else [argument]
    return tokens


def _is_command_line(argument: str, words: list[str]) -> bool:
    """Return whether an argument holds a flag and its value, or several flags.

    A single flag with `=` may have spaces in its value, as in --chat-template=a b.
    """
    separate = re.match(r"\s*--[\w-]+\s|\s+-", argument) is not None
    return separate or any(re.match(r"--[A-Za-z]", word) for word in words[1:])


def parse(tokens: list[str], ours: Collection[str]) -> ParsedFlags:
    """Separate the flags that are settings from the others, which are passed on unchanged.

    Args:
        tokens: arguments, after `split`.
        ours: names of the flags that are settings.

    Raises:
        SettingError: the server does not know a flag, or a value is missing.
    """
    known = set(ours) | set(FLAGS_FILE.read_text(encoding="utf-8").split())
    settings: dict[str, str] = {}
    rest: list[str] = []
    names: dict[str, str] = {}
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        head, equals, value = token.partition("=")
        if not head.startswith("--") and head not in _ALIASES:
            rest.append(token)
            continue
        name = _full_name(_ALIASES.get(head) or head.replace("_", "-"), known)
        if name not in ours:
            following = "".join(tokens[position : position + 1])
            names[name] = value if equals else "" if following.startswith("-") else following
            rest.append(token)
            continue
        if not equals:
            if position == len(tokens) or re.match(r"--\w", tokens[position]):
                raise SettingError(f"{name} has no value", f"write {name}=VALUE")
            value = tokens[position]
            position += 1
        while name == _SEVERAL and position < len(tokens) and not tokens[position].startswith("-"):
            value += " " + tokens[position]
            position += 1
        settings[name] = value
    return ParsedFlags(settings, rest, names)


def _full_name(flag: str, known: set[str]) -> str:
    """Return the full name of a flag: the server accepts abbreviations, too.

    Raises:
        SettingError: the server knows no flag or several flags that begin so.
    """
    if flag == "--config":
        raise SettingError("--config is not supported here", "give flags, or set HIGGS_EXTRA_ARGS")
    found = [flag] if flag in known else sorted(name for name in known if name.startswith(flag))
    if len(found) == 1:
        return found[0]
    if found:
        raise SettingError(f"{flag} is ambiguous", f"write one of {', '.join(found)}")
    close = difflib.get_close_matches(flag, known, n=1)
    raise SettingError(
        f"the server has no flag {flag}",
        f"write {close[0]}" if close else "--help says how to list all flags",
    )
