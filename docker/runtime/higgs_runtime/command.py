"""The server's command line and environment, from settings, GPU and weights."""

from __future__ import annotations

import os
import pwd
import re
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from higgs_runtime import control
from higgs_runtime.gpu import Limits
from higgs_runtime.settings import Settings
from higgs_runtime.weights import Place

MODULE = "vllm.entrypoints.bosonai.api_server"
GATE = "higgs_runtime.gate.Gate"
MOST_SOUNDS = "audio=50"
"""Reference recordings in one request: voices have one or two, a chat's history may have many."""


def arguments(settings: Settings, limits: Limits, place: Place) -> list[str]:
    """Return the server's command line, what was given by a person last."""
    utilization = settings.gpu_memory_utilization or limits.utilization
    command = [
        sys.executable, "-m", MODULE,
        "--host", settings.host,
        "--port", str(settings.port),
        "--model", place.model,
        "--audio-tokenizer-type", place.audio_tokenizer,
        "--served-model-name", *settings.served_model_name,
        "--max-model-len", str(settings.max_model_len or limits.max_model_len),
        "--gpu-memory-utilization", str(utilization),
        "--tensor-parallel-size", str(settings.tensor_parallel_size),
        "--middleware", GATE,
    ]  # fmt: skip
    if place.semantic_model:
        command += ["--semantic-model-path", place.semantic_model]
    if settings.voices_dir:
        command += ["--voice-presets-dir", settings.voices_dir]
    if "--limit-mm-per-prompt" not in settings.given:
        command += ["--limit-mm-per-prompt", MOST_SOUNDS]
    if "--disable-mm-preprocessor-cache" not in settings.given:
        command.append("--disable-mm-preprocessor-cache")
    return [*command, *settings.arguments]


def environment(
    settings: Settings, current: Mapping[str, str], hf_home: Path, socket: int
) -> dict[str, str]:
    """Return the server's environment.

    Args:
        settings: what was set.
        current: the container's.
        hf_home: where the hub's library keeps things.
        socket: number of the one to the start code.
    """
    changed = dict(current)
    changed["HF_HOME"] = str(hf_home)
    changed["HF_HUB_OFFLINE"] = "1"  # everything is there: nothing is asked for at a start
    changed[control.CONTROL] = str(socket)
    changed[control.WARMUP] = str(settings.warmup_seconds)
    # Not as a flag: the server logs its flags, and ps shows them.
    if key := settings.api_key or current.get(control.API_KEY, "").strip():
        changed[control.API_KEY] = key
    # The order in which the driver numbers GPUs, as the checks saw them.
    changed.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    changed.setdefault("VLLM_USE_V1", "1")  # the server has no other engine
    changed.setdefault("VLLM_NO_USAGE_STATS", "1")
    for secret in ("HF_TOKEN", "PUBLIC_KEY"):  # it has no use for them
        changed.pop(secret, None)
    if re.match(r"\w+://", changed.get("VLLM_PORT", "")):
        del changed["VLLM_PORT"]  # Kubernetes' address of a service that is called vllm
    _give_home(changed)
    return changed


def _give_home(changed: dict[str, str]) -> None:
    """Let the server keep what it compiles where HOME cannot be written, and have a user's name.

    Both are wanted by PyTorch and Triton, and not there for a user without an account, or in a
    container that is read-only.
    """
    if not os.access(changed.get("HOME") or "/", os.W_OK):
        changed["HOME"] = str(Path(tempfile.gettempdir(), f"higgs-{os.getuid()}"))
        Path(changed["HOME"]).mkdir(mode=0o700, exist_ok=True)
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        changed.setdefault("USER", str(os.getuid()))


def exec_other(command: list[str]) -> int:
    """Become another program, such as a shell.

    Returns:
        An exit code as a shell has it, if there is no such program.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and programs would inherit
    try:
        os.execvp(command[0], command)  # noqa: S606 (that is what was asked for)
    except OSError as error:
        from higgs_runtime import log

        log.error(
            f"{command[0]}: {error.strerror}",
            "the first argument is a program to run instead of the server, or a server flag that "
            "begins with --",
        )
        return 127 if isinstance(error, FileNotFoundError) else 126
