"""Lines in a server's log after which it cannot come up any more, and what to do about each."""

from __future__ import annotations

import re
from typing import NamedTuple


class Hint(NamedTuple):
    """What a line means.

    Attributes:
        what: went wrong.
        way_out: what to do.
    """

    what: str
    way_out: str


_KNOWN: tuple[tuple[str, Hint], ...] = (
    (
        r"unsatisfied condition: cuda|CUDA driver version is insufficient"
        r"|driver on your system is too old",
        Hint("the GPU's driver is too old", "use a host with a driver for CUDA 12.4 or later"),
    ),
    (
        r"no kernel image is available|is not compatible with the current PyTorch"
        r"|\bsm_1[02]0\b.*not compatible",
        Hint("the GPU is newer than the image's kernels", "use one before Blackwell"),
    ),
    (
        r"Found no NVIDIA driver|could not select device driver"
        r"|No CUDA GPUs are available|Failed to infer device type|no GPU (was )?found",
        Hint("there is no GPU or no driver", "run with --device cpu, or on a GPU host"),
    ),
    (
        r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks"
        r"|larger than the (maximum number of tokens|available KV cache)",
        Hint(
            "the GPU's memory does not suffice",
            "free it, or start with less: --gpu-memory-utilization, --max-model-len",
        ),
    ),
    (
        r"\b401\b.*huggingface|GatedRepoError|Invalid (username or password|user token)"
        r"|401 Client Error",
        Hint("the hub refused the login, or knows no such repository", "set HF_TOKEN; check names"),
    ),
    (
        r"RepositoryNotFoundError|EntryNotFoundError|RevisionNotFoundError"
        r"|not a valid model identifier|is not in .* and HIGGS_OFFLINE"
        r"|couldn't find them in the cached files",
        Hint("the weights were not found", "check repository, revision and cache"),
    ),
    (
        r"all_special_tokens_extended",
        Hint("transformers 5 is installed, the fork needs 4", "build from the locked packages"),
    ),
    (
        r"No space left on device",
        Hint("the disk or the shared memory is full", "free space, or give more: --shm-size"),
    ),
    (
        r"EngineCore hit an exception|Engine core initialization failed|EngineDeadError",
        Hint("the engine died", "see the traceback in the log"),
    ),
    (
        r"^(api_server\.py|.*): error: (unrecognized arguments|argument )",
        Hint("a flag is unknown or wrong", "see --help of the image"),
    ),
)
FATAL = tuple((re.compile(pattern), hint) for pattern, hint in _KNOWN)
HARMLESS = ("WARNING ", "INFO ", "INFO:", "DEBUG ")
"""How lines begin that no one dies of."""


def find(log: str) -> tuple[str, Hint] | None:
    """Return the first fatal line of a log and what it means; the more telling one first.

    What the server itself calls less than an error is none: it goes on.
    """
    lines = [line for line in log.splitlines() if not line.startswith(HARMLESS)]
    for pattern, hint in FATAL:
        for line in lines:
            if pattern.search(line):
                return line.strip(), hint
    return None


_ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)\b: ")


def last_error(log: str) -> str:
    """Return the last line that names an exception, or else the start code's; empty if none."""
    lines = log.splitlines()
    named = [line for line in lines if _ERROR.match(line)]
    told = [line for line in lines if line.startswith("higgs: ERROR: ")]
    return (named or told or [""])[-1].strip()


def of_exit(code: int, *, out_of_memory: bool) -> Hint:
    """Return what an exit code means by itself."""
    if out_of_memory or code == 137:
        return Hint("it was killed, most likely for memory", "give it more memory")
    if code == 139:
        return Hint("it crashed", "see the log")
    if code == 126 or code == 127:
        return Hint("its start command is missing or cannot be run", "look at the entrypoint")
    return Hint("it ended by itself", "see its log")
