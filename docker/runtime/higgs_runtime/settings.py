"""Reads the settings: a flag wins over a variable, and a variable over the default.

An empty variable counts as unset, because most platforms send one for a form field that was left
empty. Whitespace around a value is ignored: a Kubernetes secret made with `echo` ends with a line
feed, and a file from Windows with CR and LF.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from higgs_runtime import control, flags
from higgs_runtime.errors import SettingError
from higgs_runtime.image import ImageFacts
from higgs_runtime.settings_table import HOST, TABLE, Setting


@dataclass(frozen=True)
class Settings:
    """Checked settings; see `settings_table.TABLE` for the meaning of each field.

    Attributes:
        host: address on which the server listens.
        arguments: everything else for the server, unchanged.
        given: names of the server's flags among `arguments`, with their values.
    """

    api_key: str | None
    port: int
    health_port: int
    generate_port: int | None
    served_model_name: tuple[str, ...]
    voices_dir: str | None
    model: str
    model_revision: str
    audio_tokenizer: str
    audio_tokenizer_revision: str
    semantic_model_revision: str | None
    hf_home: str | None
    hf_token: str | None
    offline: bool
    gpu_memory_utilization: float | None
    max_model_len: int | None
    max_num_seqs: int | None
    tensor_parallel_size: int
    device: str
    force: bool
    warmup_seconds: int | None
    drain_seconds: int
    public_key: str | None
    keep_alive_seconds: int
    host: str
    arguments: list[str]
    given: Mapping[str, str]


EXTRA = next(setting for setting in TABLE if setting.field == "extra_arguments")


def read(arguments: Sequence[str], environment: Mapping[str, str], image: ImageFacts) -> Settings:
    """Read flags and variables.

    Args:
        arguments: the container's arguments, after `flags.split`.
        environment: its variables.
        image: names the pinned weights.

    Raises:
        SettingError: a value cannot be used, or the server has no such flag.
    """
    extra = _parse(EXTRA, EXTRA.name, environment.get(EXTRA.name, "").strip())
    table = [setting for setting in (*TABLE, HOST) if setting is not EXTRA]
    parsed = flags.parse([*extra, *arguments], {x.flag for x in table if x.flag})
    values: dict[str, Any] = {}
    for setting in table:
        values[setting.field] = setting.value
        if setting.flag in parsed.settings:
            values[setting.field] = _parse(setting, setting.flag, parsed.settings[setting.flag])
        elif text := environment.get(setting.name, "").strip():
            values[setting.field] = _parse(setting, setting.name, text)
    for name, pinned in (("model", image.generation), ("audio_tokenizer", image.audio_tokenizer)):
        values[name] = values[name] or pinned.repo
        if values[f"{name}_revision"] is None:
            own = pinned.revision if values[name] == pinned.repo else None
            values[f"{name}_revision"] = own or "main"
    values["health_port"] = values["health_port"] or values["port"]
    _check_generate_port(values, parsed.names)
    return Settings(**values, arguments=parsed.rest, given=parsed.names)


def _check_generate_port(values: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Refuse a port of /generate that cannot be served.

    Raises:
        SettingError: the port is another one's, or the server speaks TLS.
    """
    port = values["generate_port"]
    if port in (values["port"], values["health_port"]):
        raise SettingError(
            f"HIGGS_GENERATE_PORT is {port}, which is the port of the server or of its /ping",
            "choose another one, such as 8888",
        )
    if port and "--ssl-certfile" in given:
        raise SettingError(
            "HIGGS_GENERATE_PORT is set, and the server has a TLS certificate",
            "unset one of them: /generate does not speak TLS; a proxy in front can",
        )


def _parse(setting: Setting, source: str, text: str) -> Any:
    if is_quoted(text):
        raise SettingError(f"the value of {source} is enclosed in quotes", QUOTES_HINT)
    try:
        return setting.parse(text)
    except ValueError:
        shown = "" if setting.secret else f": {text!r}"
        raise SettingError(f"{source} is not valid{shown}", f"allowed: {setting.allowed}") from None


QUOTES_HINT = "remove the quotes, which are a part of it: docker run --env-file keeps them"

_CONFIGURATION = re.compile(r"(HF|VLLM|CUDA|NVIDIA|NCCL|TORCH|TRITON|OMP)_|\w+_proxy$", re.I)
"""Variables, other than settings, that configure the server or the libraries below it."""


def is_quoted(value: str) -> bool:
    """Return whether a value begins and ends with the same quote, and has no other one."""
    return re.fullmatch(r"""\s*(["'])(?:(?!\1).)*\1\s*""", value, re.DOTALL) is not None


def quoted(environment: Mapping[str, str]) -> list[str]:
    """Return variables, other than settings, whose value is probably quoted by mistake.

    Raises:
        SettingError: one of them is a setting, or the API key under the server's own name.
    """
    settings = {setting.name for setting in TABLE} | {control.API_KEY}
    names = [name for name, value in environment.items() if is_quoted(value)]
    for name in names:
        if name in settings or name.startswith("HIGGS_"):
            raise SettingError(f"the value of {name} is enclosed in quotes", QUOTES_HINT)
    return [name for name in names if _CONFIGURATION.match(name)]


def check_patch_settings(environment: Mapping[str, str]) -> None:
    """Refuse values that the patches of the server would refuse, before anything is downloaded.

    Raises:
        SettingError: a value is not valid.
    """
    for setting in _patch_settings():
        try:
            setting.read(environment)
        except ValueError as error:
            hint = f"allowed: {setting.values}"
            raise SettingError(f"{setting.variable} is not valid: {error}", hint) from None


def _patch_settings() -> Sequence[Any]:
    """Return the settings of the patches and of /generate."""
    try:
        from higgs_generate import settings as generate
        from higgs_patches import patch_settings
    except ImportError:  # an image without patches
        return ()
    return *patch_settings.SETTINGS, *generate.SETTINGS


def misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables that look like misspelt settings, each with the likely name."""
    names = [setting.name for setting in TABLE] + [x.variable for x in _patch_settings()]
    found: dict[str, str] = {}
    for name in environment:
        if name.startswith("HIGGS_") and name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
            found.update({name: close[0]} if close else {})
    return found
