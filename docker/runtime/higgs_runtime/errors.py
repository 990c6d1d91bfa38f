"""Every reason for which the image refuses to start: one class and one exit code per way out."""

from __future__ import annotations


class Refused(Exception):
    """Base of all refusals.

    Args:
        message: what is wrong, with the value.
        hint: what to do now.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadSetting(Refused):
    """A variable or flag has a value that cannot be used."""

    exit_code = 2


class NoGpu(Refused):
    """The container sees no NVIDIA GPU."""

    exit_code = 10


class DriverTooOld(Refused):
    """The host's driver cannot run CUDA 12.4."""

    exit_code = 11


class UnsupportedGpu(Refused):
    """The image has no kernels for this generation of GPUs."""

    exit_code = 12


class GpuTooSmall(Refused):
    """The GPU has too little memory, or too little of it is free."""

    exit_code = 13


class TensorParallelRefused(Refused):
    """The server is known to crash with this number of GPUs."""

    exit_code = 14


class DiskTooSmall(Refused):
    """The weights do not fit on the disk: found out before or during the download."""

    exit_code = 20


class HubRefused(Refused):
    """The hub wants a login, or its account may not read the repository (401, 403)."""

    exit_code = 21


class HubNotFound(Refused):
    """The hub has no such repository or revision (404)."""

    exit_code = 22


class HubBusy(Refused):
    """The hub limits requests, or fails (429, 5xx)."""

    exit_code = 23


class NoNetwork(Refused):
    """The hub cannot be reached."""

    exit_code = 24


class WeightsDamaged(Refused):
    """A file is not what the hub says it is, also after a second download."""

    exit_code = 25


class NotCached(Refused):
    """Offline mode, and the weights are not all there."""

    exit_code = 26


class HookFailed(Refused):
    """/pre_start.sh ended with an error."""

    exit_code = 30


class PortTaken(Refused):
    """A port cannot be bound."""

    exit_code = 31


SERVER_ENDED = 70
"""Exit code when the server ends with 0 without having been asked to."""
