"""Known lines of a server's log after which it cannot start, with their meaning and a hint."""

from __future__ import annotations

import re
from typing import NamedTuple


class Diagnosis(NamedTuple):
    """The meaning of a line.

    Attributes:
        what: that went wrong.
        hint: what to do now.
        of_machine: the machine lacks something, which says nothing about the image.
    """

    what: str
    hint: str
    of_machine: bool = False


_KNOWN: tuple[tuple[str, Diagnosis], ...] = (
    (
        r"unsatisfied condition: cuda|CUDA driver version is insufficient"
        r"|driver on your system is too old",
        Diagnosis(
            "the GPU's driver is too old", "use a host with a driver for CUDA 12.4 or later", True
        ),
    ),
    (
        r"no kernel image is available|is not compatible with the current PyTorch"
        r"|\bsm_1[02]0\b.*not compatible",
        Diagnosis(
            "the GPU is newer than the image's kernels",
            "use one before Blackwell, or the image's variant cuda12.8: docs/cards.md",
            True,
        ),
    ),
    (
        r"Found no NVIDIA driver|could not select device driver"
        r"|No CUDA GPUs are available|Failed to infer device type|no GPU (was )?found",
        Diagnosis("there is no GPU or no driver", "run with --device cpu, or on a GPU host", True),
    ),
    (
        r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks"
        r"|larger than the (maximum number of tokens|available KV cache)",
        Diagnosis(
            "the GPU does not have enough memory",
            "free it, or start with less: --gpu-memory-utilization, --max-model-len",
        ),
    ),
    (
        r"\b401\b.*huggingface|GatedRepoError|Invalid (username or password|user token)"
        r"|401 Client Error",
        Diagnosis(
            "the hub refused the login, or does not have the repository",
            "set HF_TOKEN; check names",
        ),
    ),
    (
        r"RepositoryNotFoundError|EntryNotFoundError|RevisionNotFoundError"
        r"|not a valid model identifier|is not in .* and HIGGS_OFFLINE"
        r"|couldn't find them in the cached files",
        Diagnosis("the weights were not found", "check repository, revision and cache"),
    ),
    (
        r"all_special_tokens_extended",
        Diagnosis(
            "transformers 5 is installed, the fork needs 4", "build from the locked packages"
        ),
    ),
    (
        r"No space left on device",
        Diagnosis(
            "the disk or the shared memory is full", "free space, or give more: --shm-size", True
        ),
    ),
    (
        r"EngineCore hit an exception|Engine core initialization failed|EngineDeadError",
        Diagnosis("the engine died", "see the traceback in the log"),
    ),
    (
        r"no command specified|OCI runtime create failed|exec format error",
        Diagnosis(
            "its entrypoint is missing or cannot be run",
            "check the image's entrypoint and its architecture",
        ),
    ),
    (
        r"^(api_server\.py|.*): error: (unrecognized arguments|argument )",
        Diagnosis("a flag is unknown or wrong", "see --help of the image"),
    ),
)
FATAL = tuple((re.compile(pattern), hint) for pattern, hint in _KNOWN)
HARMLESS = ("WARNING ", "INFO ", "INFO:", "DEBUG ", "higgs: WARNING: ")
"""Beginnings of lines that are not fatal."""


def find(log: str) -> tuple[str, Diagnosis] | None:
    """Return a fatal line of a log and its meaning; a specific one before a general one.

    Lines that the server itself logs below the level of an error are not fatal.
    """
    lines = [line for line in log.splitlines() if not line.startswith(HARMLESS)]
    for pattern, hint in FATAL:
        for line in lines:
            if pattern.search(line):
                return line.strip(), hint
    return None


_LOGGED = re.compile(r"^(?:ERROR|CRITICAL) [\d-]+ [\d:]+ \[[^\]]+\] ?")
"""What vLLM's logger writes before each line of a traceback."""
_TRACEBACK = "Traceback (most recent call last):"
_ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)\b: ")
_RAISED = re.compile(r"^(?:\w+\.)*[A-Z]\w*(?:: |$)")
"""The end of a traceback: an exception of any name."""


_REFUSED = "higgs: ERROR: "
_SERVER_ENDED = "the server "
"""How the entrypoint's line goes on if the server, not the entrypoint, ended the container."""


OF_MACHINE = frozenset((10, 11, 12, 13, 20, 23, 24))
"""Exit codes of the entrypoint that blame the machine or the network (docker/runtime/errors.py)."""


def refusal(log: str) -> str:
    """Return why the image's entrypoint refused to start, with its hint; empty if it did not."""
    refusals = [
        line.removeprefix(_REFUSED) for line in log.splitlines() if line.startswith(_REFUSED)
    ]
    return refusals[-1] if refusals and not refusals[-1].startswith(_SERVER_ENDED) else ""


def last_error(log: str) -> str:
    """Return the last line that names an exception; empty if none."""
    found, traced = "", False
    for line in log.splitlines():
        text = _LOGGED.sub("", line)
        if _ERROR.match(text) or (traced and _RAISED.match(text)):
            found = text.strip()
        traced = text.endswith(_TRACEBACK) or (traced and text.startswith(" "))
    return found


def printable(text: str) -> str:
    """Replace characters that a terminal, XML or a table cannot hold."""
    return "".join(x if x.isprintable() else " " for x in text)


def of_exit(code: int, error: str, *, out_of_memory: bool) -> Diagnosis:
    """Return the meaning of an exit code.

    Args:
        code: of the container.
        error: the last exception in its log; empty if none.
        out_of_memory: the engine says that the kernel killed it for memory.
    """
    if code == 137 and error and not out_of_memory:
        return Diagnosis("it was killed after an exception", "see the traceback in its log")
    if out_of_memory or code == 137:
        return Diagnosis("it was killed, most likely for memory", "give it more memory")
    if code == 139:
        return Diagnosis("it crashed", "see the log")
    if code == 126 or code == 127:
        return Diagnosis(
            "its entrypoint is missing or cannot be run", "look at the image's entrypoint"
        )
    return Diagnosis("it ended by itself", "see its log")
