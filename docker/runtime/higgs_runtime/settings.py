"""What a person can set: one table of variables and flags, read by --help, README and the parser.

A flag wins over a variable, and a variable over the default. An empty variable counts as unset,
as the forms of most platforms send one for a field that was left empty; blanks and line ends around
a value are no part of it, as a Kubernetes secret made by `echo` ends with one, and a file of
Windows has two.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from higgs_runtime.errors import BadSetting
from higgs_runtime.image import Image

FLAGS_FILE = Path(__file__).with_name("server_flags.txt")
"""Names of the server's own flags, one on each line."""

DEFAULT_HOST = "0.0.0.0"  # noqa: S104 (a container is reached from outside)


def _text(pattern: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(value)
        return value

    return parse


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value) if re.fullmatch(r"[+-]?[0-9]{1,9}", value) else low - 1
        if not low <= number <= high:
            raise ValueError(value)
        return number

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        if not low <= (number := float(value)) <= high:
            raise ValueError(value)
        return number

    return parse


def _switch(value: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True,
             "0": False, "false": False, "no": False, "off": False}  # fmt: skip
    if value.lower() not in known:
        raise ValueError(value)
    return known[value.lower()]


def _voices(value: str) -> str:
    if not os.path.isfile(f"{value}/config.json"):  # noqa: PTH113
        raise ValueError(value)
    return value


def _names(value: str) -> tuple[str, ...]:
    names = tuple(value.split())
    if not names or any(re.fullmatch(r"[\w./:-]{1,200}", name) is None for name in names):
        raise ValueError(value)
    return names


def _arguments(value: str) -> list[str]:
    return shlex.split(value)


def _model(value: str) -> str:
    """Take a folder that is there, or what the hub allows as a repository's name."""
    part = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?"
    named = re.fullmatch(rf"(?:{part}/)?{part}", value) and not re.search(r"--|\.\.", value)
    if not named and not os.path.isdir(value):  # noqa: PTH112 (no error where that is forbidden)
        raise ValueError(value)
    return value


_REVISION = _text(r"[\w./-]{1,200}")


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        name: the field of `Settings`.
        variable: its name in the environment.
        flag: the server's flag that wins over it, if there is one.
        default: as a person reads it.
        values: what is allowed.
        meaning: what it does.
        parse: text to value; raises ValueError.
        value: the default as a value.
        secret: never shown.
    """

    name: str
    variable: str
    flag: str
    default: str
    values: str
    meaning: str
    parse: Callable[[str], Any]
    value: Any = None
    secret: bool = False


TABLE = (
    Row("model", "HIGGS_MODEL", "--model", "pinned", "hub repository or existing folder",
        "speech model", _model),
    Row("model_revision", "HIGGS_MODEL_REVISION", "--revision", "pinned",
        "commit, branch or tag", "its revision", _REVISION),
    Row("audio_tokenizer", "HIGGS_AUDIO_TOKENIZER", "--audio-tokenizer-type", "pinned",
        "hub repository or existing folder", "audio tokenizer", _model),
    Row("audio_tokenizer_revision", "HIGGS_AUDIO_TOKENIZER_REVISION", "--audio-tokenizer-revision",
        "pinned", "commit, branch or tag", "its revision", _REVISION),
    Row("semantic_model_revision", "HIGGS_SEMANTIC_MODEL_REVISION", "--semantic-model-revision",
        "in the tokenizer", "commit, branch or tag", "semantic model of its own", _REVISION),
    Row("served_model_name", "HIGGS_SERVED_MODEL_NAME", "--served-model-name", "higgs-audio-v2",
        "one or more, without spaces in one", "the model's name in requests",
        _names, ("higgs-audio-v2",)),
    Row("port", "PORT", "--port", "8000", "1 to 65535", "port of the server",
        _integer(1, 65535), 8000),
    Row("health_port", "PORT_HEALTH", "", "as PORT", "1 to 65535", "port of GET /ping",
        _integer(1, 65535)),
    Row("gpu_memory_utilization", "HIGGS_GPU_MEMORY_UTILIZATION", "--gpu-memory-utilization",
        "0.85; from 40 GB 0.90", "0.1 to 0.98", "share of the GPU's memory to use",
        _number(0.1, 0.98)),
    Row("max_model_len", "HIGGS_MAX_MODEL_LEN", "--max-model-len", "8192; from 40 GB 16384",
        "512 to 131072", "longest request with its answer in tokens (25 are 1 s of sound)",
        _integer(512, 131072)),
    Row("tensor_parallel_size", "HIGGS_TENSOR_PARALLEL_SIZE", "--tensor-parallel-size", "1",
        "1 or 2, as many GPUs as there are", "GPUs to spread the model over",
        _integer(1, 16), 1),
    Row("api_key", "HIGGS_API_KEY", "--api-key", "none", "8 characters or more, no spaces",
        "key that requests must send", _text(r"[!-~]{8,}"), secret=True),
    Row("voices_dir", "HIGGS_VOICES_DIR", "--voice-presets-dir", "none",
        "folder with a config.json", "your own voices", _voices),
    Row("extra_arguments", "HIGGS_EXTRA_ARGS", "", "none", "as in a shell",
        "more flags of the server", _arguments),
    Row("offline", "HIGGS_OFFLINE", "", "0", "0 or 1", "use what was downloaded, ask nobody",
        _switch, False),
    Row("warmup_seconds", "HIGGS_WARMUP_SECONDS", "", "180", "0 to 3600, 0: none",
        "longest warm-up before /ping is 200", _integer(0, 3600), 180),
    Row("drain_seconds", "HIGGS_DRAIN_SECONDS", "", "25", "0 to 3600",
        "time for running requests after SIGTERM", _integer(0, 3600), 25),
    Row("device", "HIGGS_DEVICE", "", "gpu", "gpu or cpu", "cpu: look for no GPU, for tests",
        _text("gpu|cpu"), "gpu"),
    Row("force", "HIGGS_FORCE", "", "0", "0 or 1", "start although the GPU is refused",
        _switch, False),
    Row("hf_home", "HF_HOME", "", "on /workspace if mounted", "folder",
        "where weights are kept", _text(r"[^\x00-\x1f]+")),
    Row("hf_token", "HF_TOKEN", "", "none", "token of the hub", "login for weights of your own",
        _text(r"[!-~]+"), secret=True),
    Row("public_key", "PUBLIC_KEY", "", "none", "public SSH keys", "starts sshd on port 22",
        str, secret=True),
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What was set, checked; see TABLE for each field's meaning.

    Attributes:
        host: address that the server listens on.
        arguments: everything else for the server, as it was given.
        given: names of the server's flags among `arguments`.
    """

    model: str
    model_revision: str
    audio_tokenizer: str
    audio_tokenizer_revision: str
    semantic_model_revision: str | None
    served_model_name: tuple[str, ...]
    port: int
    health_port: int
    gpu_memory_utilization: float | None
    max_model_len: int | None
    tensor_parallel_size: int
    api_key: str | None
    voices_dir: str | None
    offline: bool
    warmup_seconds: int
    drain_seconds: int
    device: str
    force: bool
    hf_home: str | None
    hf_token: str | None
    public_key: str | None
    host: str
    arguments: list[str]
    given: frozenset[str]


_HOST = Row("host", "", "--host", "", "an address of this container", "", _text(r"[\w.:]+"))
_ALIASES = {"-tp": "--tensor-parallel-size"}
_SEVERAL = "--served-model-name"
"""The one flag of ours that takes several values."""


def read(arguments: Sequence[str], environment: Mapping[str, str], image: Image) -> Settings:
    """Read flags and variables.

    Args:
        arguments: the container's, from `split`.
        environment: its variables.
        image: names the pinned weights.

    Raises:
        BadSetting: a value cannot be used, or the server knows no such flag.
    """
    extra_row = next(row for row in TABLE if row.name == "extra_arguments")
    extra = environment.get(extra_row.variable, "").strip()
    tokens = [*_parse(extra_row, extra_row.variable, extra), *arguments]
    flags, rest, given = _flags(tokens)
    values: dict[str, Any] = {}
    for row in (*TABLE, _HOST):
        if row.name == "extra_arguments":
            continue
        values[row.name] = row.value
        if row.flag in flags:
            values[row.name] = _parse(row, row.flag, flags[row.flag])
        elif text := environment.get(row.variable, "").strip():
            values[row.name] = _parse(row, row.variable, text)
    for name, pinned in (("model", image.generation), ("audio_tokenizer", image.audio_tokenizer)):
        values[name] = values[name] or pinned.repo
        if values[f"{name}_revision"] is None:
            own = pinned.revision if values[name] == pinned.repo else None
            values[f"{name}_revision"] = own or "main"
    values["host"] = values["host"] or DEFAULT_HOST
    values["health_port"] = values["health_port"] or values["port"]
    return Settings(**values, arguments=rest, given=given)


def _parse(row: Row, source: str, text: str) -> Any:
    try:
        return row.parse(text)
    except ValueError:
        shown = "set" if row.secret else repr(text)
        raise BadSetting(
            f"{source} is {shown}, which cannot be used", f"allowed: {row.values}"
        ) from None


def split(arguments: Sequence[str]) -> list[str]:
    """Take apart what a platform with one field for all arguments passed on as one.

    Raises:
        BadSetting: a quotation mark is missing.
    """
    tokens: list[str] = []
    for argument in arguments:
        try:
            one_field = re.match(r"\s*--[\w-]+\s|\s+-", argument)
            tokens += shlex.split(argument) if one_field else [argument]
        except ValueError as error:
            raise BadSetting(f"the argument {argument!r} cannot be read: {error}",
                             "write it as in a shell") from None  # fmt: skip
    return tokens


def _flags(tokens: list[str]) -> tuple[dict[str, str], list[str], frozenset[str]]:
    """Tell our flags with their values from the others, which are passed on as they are."""
    ours = {row.flag for row in (*TABLE, _HOST) if row.flag}
    known = ours | set(FLAGS_FILE.read_text(encoding="utf-8").split())
    flags: dict[str, str] = {}
    rest: list[str] = []
    given: set[str] = set()
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
            given.add(name)
            rest.append(token)
            continue
        if not equals:
            if position == len(tokens) or re.match(r"--\w", tokens[position]):
                raise BadSetting(f"{name} has no value", f"write {name}=VALUE")
            value = tokens[position]
            position += 1
        while name == _SEVERAL and position < len(tokens) and not tokens[position].startswith("-"):
            value += " " + tokens[position]
            position += 1
        flags[name] = value
    return flags, rest, frozenset(given)


def _full_name(flag: str, known: set[str]) -> str:
    """Return the flag's full name: the server takes abbreviations as well.

    Raises:
        BadSetting: it knows none that begins so, or several.
    """
    if flag == "--config":
        raise BadSetting("--config is not supported here", "give flags, or set HIGGS_EXTRA_ARGS")
    found = [flag] if flag in known else sorted(name for name in known if name.startswith(flag))
    if len(found) == 1:
        return found[0]
    if found:
        raise BadSetting(f"{flag} stands for several flags", f"write one of {', '.join(found)}")
    close = difflib.get_close_matches(flag, known, n=1)
    raise BadSetting(
        f"the server knows no flag {flag}",
        f"write {close[0]}" if close else "--help says where all its flags are listed",
    )


def unknown(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables that look like misspelt ones of the table, each with what was meant."""
    names = [row.variable for row in TABLE]
    found: dict[str, str] = {}
    for name in environment:
        if name.startswith("HIGGS_") and name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
            found.update({name: close[0]} if close else {})
    return found


WIDTH, NAMES = 80, 31
"""Columns of a screen, and of those the ones for a variable's name."""


def help_text(image: Image | None) -> str:
    """Return what --help prints: one screen."""
    import textwrap

    lines = [
        f"Higgs Audio v2 speech server, image {image.tag if image else '(unknown)'}",
        "",
        "  docker run --gpus all -p 8000:8000 IMAGE [SERVER FLAGS]     serve",
        "  docker run -it IMAGE bash                                   any other command",
        "",
        f"{'Variable':<{NAMES}}Meaning (allowed values) [default]",
    ]
    for row in TABLE:
        meaning, allowed = row.meaning.partition(" (")[0], row.values.replace("`", "")
        default = "" if row.default == "none" else f" [{row.default}]"
        text = f"{row.variable:<{NAMES}}{meaning} ({allowed}){default}"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent=NAMES * " ", break_on_hyphens=False)
    lines += [
        "",
        "A server flag wins over its variable; README.md has both. All server flags:",
        "  docker run IMAGE python3 -m vllm.entrypoints.bosonai.api_server --help",
        "GET /ping: 204 while loading, 200 when ready. Sound: POST /v1/audio/speech.",
    ]
    return "\n".join(lines)


def table() -> str:
    """Return the table as Markdown, as README.md has it."""
    lines = [
        "| variable | flag | default | allowed | meaning |",
        "|---|---|---|---|---|",
    ]
    for row in TABLE:
        flag = f"`{row.flag}`" if row.flag else ""
        lines.append(
            f"| `{row.variable}` | {flag} | {row.default} | {row.values} | {row.meaning} |"
        )
    return "\n".join(lines)
