"""Lines in a server's log after which it cannot come up any more, and what to do about each."""

from __future__ import annotations

import re
from typing import NamedTuple


class Hint(NamedTuple):
    """What a line means.

    Attributes:
        what: went wrong.
        way_out: what to do.
        of_machine: it is the machine that lacks something: of the image that says nothing.
    """

    what: str
    way_out: str
    of_machine: bool = False


_KNOWN: tuple[tuple[str, Hint], ...] = (
    (
        r"unsatisfied condition: cuda|CUDA driver version is insufficient"
        r"|driver on your system is too old",
        Hint(
            "the GPU's driver is too old", "use a host with a driver for CUDA 12.4 or later", True
        ),
    ),
    (
        r"no kernel image is available|is not compatible with the current PyTorch"
        r"|\bsm_1[02]0\b.*not compatible",
        Hint("the GPU is newer than the image's kernels", "use one before Blackwell", True),
    ),
    (
        r"Found no NVIDIA driver|could not select device driver"
        r"|No CUDA GPUs are available|Failed to infer device type|no GPU (was )?found",
        Hint("there is no GPU or no driver", "run with --device cpu, or on a GPU host", True),
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
        Hint("the disk or the shared memory is full", "free space, or give more: --shm-size", True),
    ),
    (
        r"EngineCore hit an exception|Engine core initialization failed|EngineDeadError",
        Hint("the engine died", "see the traceback in the log"),
    ),
    (
        r"no command specified|OCI runtime create failed|exec format error",
        Hint(
            "its start command is missing or cannot be run",
            "look at the image's entrypoint, and whether it is for this machine's architecture",
        ),
    ),
    (
        r"^(api_server\.py|.*): error: (unrecognized arguments|argument )",
        Hint("a flag is unknown or wrong", "see --help of the image"),
    ),
)
FATAL = tuple((re.compile(pattern), hint) for pattern, hint in _KNOWN)
HARMLESS = ("WARNING ", "INFO ", "INFO:", "DEBUG ", "higgs: WARNING: ")
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


_REFUSED = "higgs: ERROR: "
_SERVER_ENDED = "the server "
"""How the start code's line goes on when it was not itself that refused."""


OF_MACHINE = frozenset((10, 11, 12, 13, 20, 23, 24))
"""Exit codes of the start code for what machine or network lack (docker/runtime, errors.py)."""


def refusal(log: str) -> str:
    """Return why the image's start code refused to start, and the way out; empty if it did not."""
    told = [line.removeprefix(_REFUSED) for line in log.splitlines() if line.startswith(_REFUSED)]
    return told[-1] if told and not told[-1].startswith(_SERVER_ENDED) else ""


def last_error(log: str) -> str:
    """Return the last line that names an exception; empty if none."""
    named = [line for line in log.splitlines() if _ERROR.match(line)]
    return named[-1].strip() if named else ""


def printable(text: str) -> str:
    """Take out what neither a terminal nor XML nor a table can hold."""
    return "".join(x if x.isprintable() else " " for x in text)


def of_exit(code: int, *, out_of_memory: bool) -> Hint:
    """Return what an exit code means by itself."""
    if out_of_memory or code == 137:
        return Hint("it was killed, most likely for memory", "give it more memory")
    if code == 139:
        return Hint("it crashed", "see the log")
    if code == 126 or code == 127:
        return Hint(
            "its start command is missing or cannot be run", "look at the image's entrypoint"
        )
    return Hint("it ended by itself", "see its log")
