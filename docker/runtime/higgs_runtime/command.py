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

from higgs_runtime import compile_cache, control, log
from higgs_runtime.gpu import GpuDefaults
from higgs_runtime.settings import Settings
from higgs_runtime.weights import WeightFolders

MODULE = "vllm.entrypoints.bosonai.api_server"
MIDDLEWARE = "higgs_runtime.readiness.ReadinessMiddleware"
MOST_AUDIO = "audio=50"
"""Reference recordings in one request: a voice has one or two, a chat's history may have many."""


def effective(
    settings: Settings, environment: Mapping[str, str], defaults: GpuDefaults
) -> GpuDefaults:
    """Return the defaults for the GPU, replaced by what the user has set."""
    reference = environment.get(control.REFERENCE, "").strip()
    return defaults._replace(
        utilization=settings.gpu_memory_utilization or defaults.utilization,
        max_model_len=settings.max_model_len or defaults.max_model_len,
        max_num_seqs=settings.max_num_seqs or defaults.max_num_seqs,
        reference_seconds=float(reference) if reference else defaults.reference_seconds,
    )


def arguments(
    settings: Settings, limits: GpuDefaults, folders: WeightFolders, *, cascade: bool
) -> list[str]:
    """Return the server's command line, with the user's own flags last.

    Args:
        settings: the settings.
        limits: result of `effective`.
        folders: the weights.
        cascade: whether cascade attention may be used.
    """
    command = [
        sys.executable, "-m", MODULE,
        "--host", settings.host,
        "--port", str(settings.port),
        "--model", folders.model,
        "--audio-tokenizer-type", folders.audio_tokenizer,
        "--served-model-name", *settings.served_model_name,
        "--max-model-len", str(limits.max_model_len),
        "--max-num-seqs", str(limits.max_num_seqs),
        "--gpu-memory-utilization", str(limits.utilization),
        "--tensor-parallel-size", str(settings.tensor_parallel_size),
        "--middleware", MIDDLEWARE,
    ]  # fmt: skip
    if folders.semantic_model:
        command += ["--semantic-model-path", folders.semantic_model]
    if settings.voices_dir:
        command += ["--voice-presets-dir", settings.voices_dir]
    if not cascade and "--disable-cascade-attn" not in settings.given:
        command.append("--disable-cascade-attn")
    if "--limit-mm-per-prompt" not in settings.given:
        command += ["--limit-mm-per-prompt", MOST_AUDIO]
    if "--disable-mm-preprocessor-cache" not in settings.given:
        command.append("--disable-mm-preprocessor-cache")
    return [*command, *settings.arguments]


def environment(
    settings: Settings,
    current: Mapping[str, str],
    hf_home: Path,
    socket: int,
    compiled: Mapping[str, str],
    reference_seconds: float,
    codec_memory: int,
    warmup_seconds: int,
) -> dict[str, str]:
    """Return the server's environment.

    Args:
        settings: the settings.
        current: the container's variables.
        hf_home: value for HF_HOME.
        socket: file descriptor of the socket to the entrypoint.
        compiled: result of `compile_cache.variables`.
        reference_seconds: longest reference recording.
        codec_memory: most GPU memory of the audio tokenizer, in MiB; 0: no limit.
        warmup_seconds: longest warm-up, unless the settings have one.
    """
    changed = {**current, **compiled}
    changed["HF_HOME"] = str(hf_home)
    changed["HF_HUB_OFFLINE"] = "1"  # everything is on disk: a start makes no request
    changed[control.CONTROL] = str(socket)
    warmup = settings.warmup_seconds
    changed[control.WARMUP] = str(warmup_seconds if warmup is None else warmup)
    changed[control.REFERENCE] = f"{reference_seconds:g}"
    if not current.get(control.CODEC_MEMORY, "").strip():
        changed[control.CODEC_MEMORY] = str(codec_memory)
    changed[control.KEEP_ALIVE] = str(settings.keep_alive_seconds)
    # Not as a flag: the server logs its flags, and every user of the host can list them.
    if key := settings.api_key or current.get(control.API_KEY, "").strip():
        changed[control.API_KEY] = key
    # The order in which NVML numbers GPUs, as the checks used it.
    changed.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    changed.setdefault("CUDA_CACHE_MAXSIZE", str(compile_cache.DRIVER_BYTES))
    # PyTorch 2.8 would take graphs from a cache past vLLM, which then fails for want of their hash;
    # in PyTorch 2.6 it is off anyway.
    changed.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "0")
    changed.setdefault("VLLM_USE_V1", "1")  # the server has no other engine
    changed.setdefault("VLLM_NO_USAGE_STATS", "1")
    for secret in ("HF_TOKEN", "PUBLIC_KEY"):  # not used by the server
        changed.pop(secret, None)
    if re.match(r"\w+://", changed.get("VLLM_PORT", "")):
        del changed["VLLM_PORT"]  # set by Kubernetes for a service that is called vllm
    changed["HOME"] = writable_home(current)
    _give_user(changed)
    return changed


def writable_home(environment: Mapping[str, str]) -> str:
    """Return HOME, or a folder in /tmp if it is not writable, as in a read-only container."""
    home = environment.get("HOME") or "/"
    if not os.access(home, os.W_OK):
        home = str(Path(tempfile.gettempdir(), f"higgs-{os.getuid()}"))
        Path(home).mkdir(mode=0o700, exist_ok=True)
    return home


def _give_user(changed: dict[str, str]) -> None:
    """Give a user without an account a name, which PyTorch and Triton need."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        changed.setdefault("USER", str(os.getuid()))


def exec_program(command: list[str]) -> int:
    """Replace this process by another program, such as a shell.

    Returns:
        The exit code that a shell would give, if the program cannot be run.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; a program would inherit that
    try:
        os.execvp(command[0], command)  # noqa: S606 (requested by the user)
    except OSError as error:
        log.error(
            f"{command[0]}: {error.strerror}",
            "the first argument is a program to run instead of the server, or a server flag that "
            "begins with --",
        )
        return 127 if isinstance(error, FileNotFoundError) else 126
