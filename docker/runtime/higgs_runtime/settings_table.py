"""What a user can set: one table of variables and flags.

It is read by the parser, by --help and by docs/configuration.md.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from typing import Any, NamedTuple

DEFAULT_HOST = "0.0.0.0"  # noqa: S104 (a container is reached from outside)


class Setting(NamedTuple):
    """One row of the table.

    Attributes:
        field: field of `Settings`.
        name: the variable.
        flag: the server's flag that wins over it; empty if there is none.
        default: the default, for a person.
        allowed: allowed values, for a person.
        meaning: what it does, for a person.
        group: heading in the documentation.
        parse: converts text to a value; raises ValueError.
        value: the default, as a value.
        secret: whether its value must never be shown.
    """

    field: str
    name: str
    flag: str
    default: str
    allowed: str
    meaning: str
    group: str
    parse: Callable[[str], Any]
    value: Any = None
    secret: bool = False


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
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(value)


def _voices(value: str) -> str:
    if not os.path.isfile(f"{value}/config.json"):  # noqa: PTH113 (False where access is denied)
        raise ValueError(value)
    return value


def _names(value: str) -> tuple[str, ...]:
    names = tuple(value.split())
    if not names or any(re.fullmatch(r"[\w./:-]{1,200}", name) is None for name in names):
        raise ValueError(value)
    return names


def _model(value: str) -> str:
    """Accept an existing folder, or a name that the hub allows for a repository."""
    part = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?"
    named = re.fullmatch(rf"(?:{part}/)?{part}", value) and not re.search(r"--|\.\.", value)
    if not named and not os.path.isdir(value):  # noqa: PTH112 (False where access is denied)
        raise ValueError(value)
    return value


_REVISION = _text(r"[\w./-]{1,200}")
_COMMIT = "commit, branch or tag"
_REPO = "hub repository or existing folder"

_SERVER = "Server"
_WEIGHTS = "Weights"
_GPU = "GPU"
_CONTAINER = "Container"

TABLE = (
    Setting("api_key", "HIGGS_API_KEY", "--api-key", "none", "8 characters or more, no spaces",
        "key that requests must send", _SERVER, _text(r"[!-~]{8,}"), secret=True),
    Setting("port", "PORT", "--port", "8000", "1 to 65535", "port of the server",
        _SERVER, _integer(1, 65535), 8000),
    Setting("health_port", "PORT_HEALTH", "", "as PORT", "1 to 65535", "port of GET /ping",
        _SERVER, _integer(1, 65535)),
    Setting("generate_port", "HIGGS_GENERATE_PORT", "", "off", "1 to 65535",
        "port of POST /generate and its page", _SERVER, _integer(1, 65535)),
    Setting("served_model_name", "HIGGS_SERVED_MODEL_NAME", "--served-model-name",
        "higgs-audio-v2", "one or more, separated by spaces", "model name in requests",
        _SERVER, _names, ("higgs-audio-v2",)),
    Setting("voices_dir", "HIGGS_VOICES_DIR", "--voice-presets-dir", "none",
        "folder with a config.json", "your own voices", _SERVER, _voices),
    Setting("extra_arguments", "HIGGS_EXTRA_ARGS", "", "none", "as in a shell",
        "more server flags", _SERVER, shlex.split, secret=True),
    Setting("model", "HIGGS_MODEL", "--model", "pinned", _REPO, "speech model", _WEIGHTS, _model),
    Setting("model_revision", "HIGGS_MODEL_REVISION", "--revision", "pinned", _COMMIT,
        "its revision", _WEIGHTS, _REVISION),
    Setting("audio_tokenizer", "HIGGS_AUDIO_TOKENIZER", "--audio-tokenizer-type", "pinned",
        _REPO, "audio tokenizer", _WEIGHTS, _model),
    Setting("audio_tokenizer_revision", "HIGGS_AUDIO_TOKENIZER_REVISION",
        "--audio-tokenizer-revision", "pinned", _COMMIT, "its revision", _WEIGHTS, _REVISION),
    Setting("semantic_model_revision", "HIGGS_SEMANTIC_MODEL_REVISION",
        "--semantic-model-revision", "in the tokenizer", _COMMIT, "separate semantic model",
        _WEIGHTS, _REVISION),
    Setting("hf_home", "HF_HOME", "", "on /workspace if mounted", "folder",
        "where weights are stored", _WEIGHTS, _text(r"[^\x00-\x1f]+")),
    Setting("hf_token", "HF_TOKEN", "", "none", "token of the hub",
        "login for private or gated weights", _WEIGHTS, _text(r"[!-~]+"), secret=True),
    Setting("offline", "HIGGS_OFFLINE", "", "0", "0 or 1",
        "make no request to the hub", _WEIGHTS, _switch, False),
    Setting("gpu_memory_utilization", "HIGGS_GPU_MEMORY_UTILIZATION", "--gpu-memory-utilization",
        "by GPU", "0.1 to 0.98", "share of the GPU's memory to use",
        _GPU, _number(0.1, 0.98)),
    Setting("max_model_len", "HIGGS_MAX_MODEL_LEN", "--max-model-len", "by GPU",
        "512 to 131072", "longest request with its answer in tokens (25 are 1 s of audio)",
        _GPU, _integer(512, 131072)),
    Setting("max_num_seqs", "HIGGS_MAX_NUM_SEQS", "--max-num-seqs", "by GPU", "1 to 4096",
        "requests that run at once", _GPU, _integer(1, 4096)),
    Setting("tensor_parallel_size", "HIGGS_TENSOR_PARALLEL_SIZE", "--tensor-parallel-size", "1",
        "1 or 2", "GPUs over which the model is spread",
        _GPU, _integer(1, 16), 1),
    Setting("device", "HIGGS_DEVICE", "", "gpu", "gpu or cpu", "cpu: no GPU, for tests",
        _GPU, _text("gpu|cpu"), "gpu"),
    Setting("force", "HIGGS_FORCE", "", "0", "0 or 1", "start although the GPU is refused",
        _GPU, _switch, False),
    Setting("warmup_seconds", "HIGGS_WARMUP_SECONDS", "", "180, on Blackwell 600",
        "0 to 3600, 0: none", "longest warm-up before /ping is 200", _CONTAINER,
        _integer(0, 3600)),
    Setting("drain_seconds", "HIGGS_DRAIN_SECONDS", "", "25", "0 to 3600",
        "time for running requests after SIGTERM", _CONTAINER, _integer(0, 3600), 25),
    Setting("keep_alive_seconds", "HIGGS_KEEP_ALIVE_SECONDS", "", "90", "1 to 86400",
        "time until idle connections are closed", _SERVER, _integer(1, 86_400), 90),
    Setting("public_key", "PUBLIC_KEY", "", "none", "public SSH keys", "starts sshd on port 22",
        _CONTAINER, str, secret=True),
)  # fmt: skip

HOST = Setting("host", "", "--host", "", "an address of this container", "", _SERVER,
               _text(r"[\w.:]+"), DEFAULT_HOST)  # fmt: skip
"""A flag without a variable: hosting platforms set HOST to other things."""
