"""Reads the GPUs through NVIDIA's management library, NVML.

Running nvidia-smi instead would take half a second, and a CUDA context is not needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from higgs_runtime.errors import NoGpuError

LIBRARY = "libnvidia-ml.so.1"
"""Comes with the driver: the NVIDIA Container Toolkit mounts it into the container."""

MIB = 1024 * 1024


class Gpu(NamedTuple):
    """One GPU.

    Attributes:
        name: product name.
        total: memory in MiB; None if NVML does not report it.
        free: memory in MiB that is free now; None if NVML does not report it.
        capability: compute capability; None if NVML does not report it.
    """

    name: str
    total: int | None
    free: int | None
    capability: tuple[int, int] | None


class GpuMachine(NamedTuple):
    """The driver and its GPUs.

    Attributes:
        driver: version.
        cuda: newest CUDA version that it supports, as 1000 * major + 10 * minor.
        gpus: the GPUs visible to the server, in its order.
    """

    driver: str
    cuda: int
    gpus: tuple[Gpu, ...]


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Library:
    """The NVML functions that are needed; a return code other than 0 raises OSError."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)

    def call(self, name: str, *arguments: object) -> None:
        function = getattr(self._library, name, None)
        code = function(*arguments) if function else 13  # FUNCTION_NOT_FOUND
        if code != 0:
            raise OSError(code, f"{name} returned {code}")

    def text(self, name: str, *handle: object) -> str:
        buffer = ctypes.create_string_buffer(256)
        self.call(name, *handle, buffer, ctypes.c_uint(len(buffer)))
        return buffer.value.decode(errors="replace")

    def integer(self, name: str) -> int:
        number = ctypes.c_int()
        self.call(name, ctypes.byref(number))
        return number.value

    def handles(self, visible: str | None) -> list[ctypes.c_void_p]:
        """Return the GPUs selected by CUDA_VISIBLE_DEVICES, in its order."""
        if visible is None:
            return [self._by_index(index) for index in range(self.integer("nvmlDeviceGetCount_v2"))]
        found: list[ctypes.c_void_p] = []
        for entry in filter(None, (part.strip() for part in visible.split(","))):
            try:
                found.append(self._by_index(int(entry)) if entry.isdigit() else self._by_id(entry))
            except OSError:
                break  # CUDA also ignores everything from the first invalid entry on
        return found

    def _by_index(self, index: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        return handle

    def _by_id(self, identifier: str) -> ctypes.c_void_p:
        """Find a GPU by a prefix of its UUID, as CUDA does, or a MIG slice by its whole UUID."""
        if identifier.startswith("GPU-"):
            for handle in self.handles(None):
                if self.text("nvmlDeviceGetUUID", handle).startswith(identifier):
                    return handle
        handle = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByUUID", identifier.encode(), ctypes.byref(handle))
        return handle

    def gpu(self, handle: ctypes.c_void_p) -> Gpu:
        memory = _Memory()
        total = free = None
        with suppress(OSError):  # not available for a MIG slice
            self.call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
            total, free = memory.total // MIB, memory.free // MIB
        major, minor = ctypes.c_int(), ctypes.c_int()
        capability = None
        with suppress(OSError):
            numbers = ctypes.byref(major), ctypes.byref(minor)
            self.call("nvmlDeviceGetCudaComputeCapability", handle, *numbers)
            capability = (major.value, minor.value)
        return Gpu(self.text("nvmlDeviceGetName", handle), total, free, capability)


_INIT_ERRORS = {
    9: "the NVIDIA driver is not loaded on the host",
    12: "the driver's library is too old",
    15: "the GPU has fallen off the bus: rent another machine, or reboot this one",
    18: "the host's driver was updated while it was running: reboot the host",
}
"""Meaning of nvmlInit's return codes."""

_RENT = (
    "start the container with --gpus all (docker), nvidia.com/gpu: 1 (Kubernetes), or rent a pod "
    "with an NVIDIA GPU; HIGGS_DEVICE=cpu starts without one, for tests"
)


def probe(environment: Mapping[str, str]) -> GpuMachine:
    """Query the driver.

    Args:
        environment: its CUDA_VISIBLE_DEVICES hides GPUs.

    Raises:
        NoGpuError: the driver or a GPU is missing.
    """
    try:
        library = _Library()
    except OSError:
        raise NoGpuError("this container sees no NVIDIA GPU", _RENT) from None
    try:
        library.call("nvmlInit_v2")
    except OSError as error:
        reason = _INIT_ERRORS.get(error.errno or 0, f"the driver's library returned {error.errno}")
        raise NoGpuError(f"NVIDIA GPUs cannot be used: {reason}", _RENT) from None
    try:
        handles = library.handles(environment.get("CUDA_VISIBLE_DEVICES"))
        machine = GpuMachine(
            driver=library.text("nvmlSystemGetDriverVersion"),
            cuda=library.integer("nvmlSystemGetCudaDriverVersion_v2"),
            gpus=tuple(library.gpu(handle) for handle in handles),
        )
    except OSError as error:
        raise NoGpuError(
            f"the NVIDIA driver does not report its GPUs: {error.strerror}", _RENT
        ) from None
    finally:
        with suppress(OSError):
            library.call("nvmlShutdown")
    if not machine.gpus:
        raise NoGpuError("the NVIDIA driver shows no GPU to this container", _RENT)
    return machine
