"""What each flag of a task accepts: one table, applied before the task does anything."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from higgs_image import variants
from higgs_image.errors import UsageError

Read = Callable[[str], object]


@dataclass(frozen=True)
class Value:
    """What one flag accepts.

    Attributes:
        expected: completes the sentence "expected ...".
        read: turns the text into what the task gets; raises ValueError or UsageError.
        setting: of invoke.yaml, and in capitals of the environment: used without the flag.
        blank: an empty text stands for "not given", as an empty input of a workflow does.
    """

    expected: str
    read: Read = str
    setting: str = ""
    blank: bool = False

    def parse(self, text: str, source: str, hint: str = "") -> object:
        """Return what the task gets.

        Args:
            text: as it was given.
            source: the flag, variable or setting it was given by.
            hint: where to read about it.

        Raises:
            UsageError: it is not what is expected.
        """
        try:
            if all(unicodedata.category(x) not in ("Cc", "Cs") for x in text):
                return self.read(text)
        except UsageError as error:
            hint = error.hint
        except ValueError:
            pass
        raise UsageError(f"{source}: expected {self.expected}, got {text!r}", hint)


def matching(pattern: str, expected: str, setting: str = "") -> Value:
    """Accept text that a regular expression matches as a whole."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return Value(expected, read, setting)


def one_of(*choices: str, setting: str = "") -> Value:
    """Accept one of a few words."""
    return matching("|".join(map(re.escape, choices)), " or ".join(choices), setting)


def whole_number(least: int, most: int | None = None) -> Value:
    """Accept a whole number in a range."""

    def read(text: str) -> int:
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else least - 1
        if number < least or (most is not None and number > most):
            raise ValueError
        return number

    limit = f" from {least} to {most}" if most is not None else f", {least} or more"
    return Value(f"a whole number{limit}", read)


def number(least: float, most: float = float("inf"), *, above: bool = False) -> Value:
    """Accept a number in a range.

    Args:
        least: of the range.
        most: of the range.
        above: `least` itself is not accepted.
    """

    def read(text: str) -> float:
        value = float(text)
        if not least <= value <= most or (above and value == least) or value == float("inf"):
            raise ValueError
        return value

    limit = f" above {least:g}" if above else f", {least:g} or more"
    return Value(
        "a number" + (f"{limit}, at most {most:g}" if most < float("inf") else limit), read
    )


def several(value: Value) -> Value:
    """Accept one or more of a kind, with commas between them."""

    def read(text: str) -> tuple[object, ...]:
        return tuple(value.read(part.strip()) for part in text.split(","))

    return Value(f"{value.expected}, or several with commas between them", read)


def _registry(text: str) -> str:
    from higgs_image.oci import reference

    reference.repository(text.lower(), "image")
    return text


def _image_name(text: str) -> str:
    from higgs_image.oci import reference

    try:
        reference.repository("localhost", text)
    except UsageError:
        raise ValueError from None
    return text


def _existing_file(text: str) -> Path:
    found = Path(text).expanduser().resolve()
    if not found.is_file():
        raise ValueError
    return found


def _address(text: str) -> str:
    ipaddress.ip_address(text)
    return text


WORDS = matching(r".*\S.*", "text without control characters")


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ValueError
    _ = parts.port  # raises ValueError
    return text


TEXT = Value("text without control characters")
FILE = Value("an existing file", _existing_file)
PATH = Value("a path", matching(".+", "").read)
IMAGE = matching(r"[\w.:/@\[\]-]+", "the name or digest of an image")
CONTAINER = matching(r"[a-zA-Z0-9][\w.-]+", "the name of a container")

VALUES: dict[str, Value] = {
    "address": Value("an IP address", _address),
    "base_image": replace(IMAGE, setting="base_image"),
    "cache": matching(r"\S.*", "a volume or a folder"),
    "compression": one_of("gzip", "zstd", setting="compression"),
    "device": one_of("auto", "gpu", "cpu"),
    "device_class": one_of("gpu", "cpu", setting="device_class"),
    "digest": IMAGE,
    "dwell": Value("a number of seconds", number(0).read),
    "env": matching(r"[A-Za-z_]\w*=.*", "NAME=VALUE"),
    "extra_ca": replace(FILE, setting="extra_ca"),
    "file": FILE,
    "flag": matching(r"-.+", "a flag of the server, such as --max-model-len=4096"),
    "gpu": matching(r"\w[\w .-]*", "a GPU type, such as NVIDIA L40S"),
    "gpus": matching(r"all|[\w-]+(,[\w-]+)*", "all, or ids of GPUs such as 0,1"),
    "hours": Value("a number of hours above 0, up to 24", number(0, 24, above=True).read),
    "identity": TEXT,
    "image": IMAGE,
    "into": replace(PATH, blank=True),
    "junit": PATH,
    "keep": whole_number(1),
    "key": FILE,
    "last": whole_number(0),
    "match": TEXT,
    "min_age": whole_number(0, 36500),
    "moving": matching(r"\w[\w.-]{0,127}", "a tag"),
    "name": Value("the name of an image, in lower case", _image_name, "image_name"),
    "only": matching(r"[\w-]+", "the name of a check"),
    "pins": FILE,
    "pod": matching(r"[\w.-]+", "the id or name of a pod"),
    "not_worse_than": replace(number(0, 10), blank=True),
    "port": whole_number(1, 65535),
    "price_cap": Value("USD an hour, above 0", number(0, 1000, above=True).read, blank=True),
    "reason": replace(TEXT, blank=True),
    "registry": Value("a registry, such as ghcr.io/your-org", _registry, "registry"),
    "server": Value("an http or https URL", _url, blank=True),
    "shm_size": matching(r"[1-9][0-9]*[bkmgBKMG]?", "a size, such as 2g"),
    "suite": one_of("unit", "engine", "fork", "gpu", "page"),
    "tail": whole_number(0),
    "timeout": Value("a number of seconds", number(0).read),
    "to": replace(IMAGE, blank=True),
    "update": matching(r"[\w.-]+( *, *[\w.-]+)*", "names of pins, such as fork,base"),
    "variant": Value(
        "the name of a variant, such as cuda12.8", matching(variants.PATTERN, "").read, blank=True
    ),
    "without": matching(r"[\w-]+", "the name of a patch"),
}
"""By the name of the parameter; a task overrides them where the same name means another thing."""
