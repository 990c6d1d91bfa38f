"""Every reason why the image refuses to start: one class and one exit code for each remedy."""

from __future__ import annotations


class StartError(Exception):
    """The server cannot be started.

    Args:
        message: what is wrong, with the value.
        hint: what to do now.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SettingError(StartError):
    """A variable or flag has a value that cannot be used."""

    exit_code = 2


class NoGpuError(StartError):
    """The container sees no NVIDIA GPU."""

    exit_code = 10


class DriverTooOldError(StartError):
    """The host's driver does not support CUDA 12.4, or 12.8 where that is needed."""

    exit_code = 11


class UnsupportedGpuError(StartError):
    """The image has no kernels for this GPU generation."""

    exit_code = 12


class GpuTooSmallError(StartError):
    """The GPU has too little memory, or too little of it is free."""

    exit_code = 13


class TensorParallelError(StartError):
    """The server is known to crash with this number of GPUs."""

    exit_code = 14


class DiskTooSmallError(StartError):
    """The disk is too small for the weights, or full."""

    exit_code = 20


class HubAccessError(StartError):
    """The Hugging Face hub requires a login, or the account lacks access (401, 403)."""

    exit_code = 21


class HubNotFoundError(StartError):
    """The Hugging Face hub does not have this repository or revision (404)."""

    exit_code = 22


class HubBusyError(StartError):
    """The Hugging Face hub is rate limiting or failing (429, 5xx)."""

    exit_code = 23


class HubUnreachableError(StartError):
    """The Hugging Face hub cannot be reached."""

    exit_code = 24


class WeightsDamagedError(StartError):
    """A file of the weights still has the wrong hash after a second download."""

    exit_code = 25


class NotCachedError(StartError):
    """Offline mode is on and the weights are not complete on disk."""

    exit_code = 26


class HookError(StartError):
    """The hook /pre_start.sh failed."""

    exit_code = 30


class PortTakenError(StartError):
    """A port cannot be bound."""

    exit_code = 31


SERVER_ENDED = 70
"""Exit code when the server exits with 0 without having been asked to."""

GENERATE_ENDED = 71
"""Exit code when the service of /generate cannot be kept running."""
