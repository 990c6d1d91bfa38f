"""The GPUs of this machine: what they are, whether the image runs on them, and with which limits.

NVIDIA's management library is asked directly. Starting nvidia-smi instead would take half a second,
and the image needs no CUDA context for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from higgs_runtime.errors import (
    BadSetting,
    DriverTooOld,
    GpuTooSmall,
    NoGpu,
    Refused,
    TensorParallelRefused,
    UnsupportedGpu,
)

LIBRARY = "libnvidia-ml.so.1"
"""Comes with the driver: the NVIDIA Container Toolkit mounts it into the container."""

MIB = 1024 * 1024
CUDA = 12_040
"""CUDA 12.4, which the image's PyTorch is built for, as the library numbers it."""
OLDEST, NEWEST = (8, 0), (9, 9)
"""Compute capabilities: the model's bfloat16 needs Ampere; PyTorch 2.6 has no Blackwell kernels."""
SMALLEST_MIB = 22_000
"""A card of 24 GB has 22,500 MiB or more. The weights take 12 GiB of them, the audio tokenizers
and their work about 4, and what is left holds the requests' tokens."""
FREE_MIB = 21_000
"""What must be free of it: a screen and the driver may take a little."""
LARGE_MIB = 38_000
"""A card of 40 GB has 40,300 MiB or more."""
KNOWN_TO_WORK = (1, 2)
"""Numbers of GPUs for which the server is not known to crash."""


class Gpu(NamedTuple):
    """One GPU.

    Attributes:
        name: as NVIDIA sells it.
        total: memory in MiB; None if the library does not say.
        free: of it, now, in MiB.
        capability: its compute capability; None if the library does not say.
    """

    name: str
    total: int | None
    free: int | None
    capability: tuple[int, int] | None


class Machine(NamedTuple):
    """What the driver says.

    Attributes:
        driver: its version.
        cuda: the newest CUDA that it runs, as 1000 * major + 10 * minor.
        gpus: those that the server would see, in its order.
    """

    driver: str
    cuda: int
    gpus: tuple[Gpu, ...]


class Limits(NamedTuple):
    """Defaults for a GPU."""

    utilization: float
    max_model_len: int


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Library:
    """The few functions of the library that are needed; a code other than 0 is an OSError."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)

    def call(self, name: str, *arguments: object) -> None:
        function = getattr(self._library, name, None)
        code = function(*arguments) if function else 13  # FUNCTION_NOT_FOUND
        if code != 0:
            raise OSError(code, f"{name} answered {code}")

    def text(self, name: str, *handle: object) -> str:
        buffer = ctypes.create_string_buffer(256)
        self.call(name, *handle, buffer, ctypes.c_uint(len(buffer)))
        return buffer.value.decode(errors="replace")

    def integer(self, name: str) -> int:
        number = ctypes.c_int()
        self.call(name, ctypes.byref(number))
        return number.value

    def handles(self, visible: str | None) -> list[ctypes.c_void_p]:
        """Return the GPUs that CUDA_VISIBLE_DEVICES leaves, in its order."""
        if visible is None:
            return [self._by_index(index) for index in range(self.integer("nvmlDeviceGetCount_v2"))]
        found: list[ctypes.c_void_p] = []
        for entry in filter(None, (part.strip() for part in visible.split(","))):
            try:
                found.append(self._by_index(int(entry)) if entry.isdigit() else self._by_id(entry))
            except OSError:
                break  # CUDA, too, sees nothing from the first wrong one on
        return found

    def _by_index(self, index: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        return handle

    def _by_id(self, identifier: str) -> ctypes.c_void_p:
        """Find a GPU by the beginning of its id, as CUDA does, or a slice by its whole id."""
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
        with suppress(OSError):  # a slice of a GPU does not say everything
            self.call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
            total, free = memory.total // MIB, memory.free // MIB
        major, minor = ctypes.c_int(), ctypes.c_int()
        capability = None
        with suppress(OSError):
            self.call("nvmlDeviceGetCudaComputeCapability", handle,
                      ctypes.byref(major), ctypes.byref(minor))  # fmt: skip
            capability = (major.value, minor.value)
        return Gpu(self.text("nvmlDeviceGetName", handle), total, free, capability)


_REASONS = {
    9: "the NVIDIA driver is not loaded on the host",
    12: "the driver's library is too old",
    15: "the GPU has fallen off the bus: rent another machine, or reboot this one",
    18: "the host's driver was updated while it ran: reboot the host",
}
"""Codes with which nvmlInit fails."""

_RENT = (
    "start the container with --gpus all (docker), nvidia.com/gpu: 1 (Kubernetes), or rent a pod "
    "with an NVIDIA GPU; HIGGS_DEVICE=cpu starts without one, for tests"
)


def look(environment: Mapping[str, str]) -> Machine:
    """Ask the driver.

    Args:
        environment: CUDA_VISIBLE_DEVICES in it hides GPUs.

    Raises:
        NoGpu: there is no driver, or no GPU.
    """
    try:
        library = _Library()
    except OSError:
        raise NoGpu("this container sees no NVIDIA GPU", _RENT) from None
    try:
        library.call("nvmlInit_v2")
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"the driver's library answers {error.errno}")
        raise NoGpu(f"no NVIDIA GPU can be used, {reason}", _RENT) from None
    try:
        handles = library.handles(environment.get("CUDA_VISIBLE_DEVICES"))
        machine = Machine(
            driver=library.text("nvmlSystemGetDriverVersion"),
            cuda=library.integer("nvmlSystemGetCudaDriverVersion_v2"),
            gpus=tuple(library.gpu(handle) for handle in handles),
        )
    except OSError as error:
        raise NoGpu(f"the NVIDIA driver does not tell its GPUs: {error.strerror}", _RENT) from None
    finally:
        with suppress(OSError):
            library.call("nvmlShutdown")
    if not machine.gpus:
        raise NoGpu("the NVIDIA driver shows this container no GPU", _RENT)
    return machine


def check(machine: Machine, tensor_parallel: int) -> list[Refused]:
    """Return the reasons why the server would not run on this machine; usually none.

    Args:
        machine: what the driver said.
        tensor_parallel: over how many GPUs the model shall be spread.

    Raises:
        BadSetting: there are fewer GPUs.
    """
    if tensor_parallel > len(machine.gpus):
        raise BadSetting(
            f"HIGGS_TENSOR_PARALLEL_SIZE is {tensor_parallel}, the container sees "
            f"{len(machine.gpus)} GPU{'s' if len(machine.gpus) > 1 else ''}",
            f"set it to at most {len(machine.gpus)}, or give the container more GPUs",
        )
    found: list[Refused] = []
    if machine.cuda < CUDA:
        found.append(
            DriverTooOld(
                f"driver {machine.driver} runs CUDA up to {_version(machine.cuda)}, the image "
                f"needs {_version(CUDA)}",
                "rent a machine with driver 550.54 or later (RunPod: minCudaVersion 12.4), or "
                "update the host's driver",
            )
        )
    for gpu in machine.gpus[:tensor_parallel]:
        found += _check_one(gpu)
    if tensor_parallel not in KNOWN_TO_WORK:
        found.append(
            TensorParallelRefused(
                f"tensor parallel over {tensor_parallel} GPUs is not known to work: over 4 the "
                "server crashes (boson-ai/higgs-audio-vllm#12)",
                "start one container for each GPU, or set HIGGS_TENSOR_PARALLEL_SIZE=1",
            )
        )
    return found


def _check_one(gpu: Gpu) -> list[Refused]:
    if gpu.capability is not None and not OLDEST <= gpu.capability <= NEWEST:
        major, minor = gpu.capability
        why = (
            "PyTorch 2.6 has no kernels for Blackwell"
            if gpu.capability > NEWEST
            else "the model needs bfloat16, which came with Ampere (sm_80)"
        )
        return [
            UnsupportedGpu(
                f"{gpu.name} (sm_{major}{minor}) is not supported: {why}",
                "rent an Ampere, Ada or Hopper GPU with 24 GB or more, such as RTX 4090, L40S, "
                "A100 or H100",
            )
        ]
    if gpu.total is not None and gpu.total < SMALLEST_MIB:
        return [
            GpuTooSmall(
                f"{gpu.name} has {_gib(gpu.total)} GiB of memory, the model needs "
                f"{_gib(SMALLEST_MIB)}",
                "rent a GPU with 24 GB or more",
            )
        ]
    if gpu.free is not None and gpu.free < FREE_MIB:
        return [
            GpuTooSmall(
                f"{gpu.name} has {_gib(gpu.free)} GiB of memory free, the model needs "
                f"{_gib(FREE_MIB)}",
                "end what else uses the GPU (nvidia-smi shows it), or choose another one with "
                "CUDA_VISIBLE_DEVICES",
            )
        ]
    return []


def limits(machine: Machine | None) -> Limits:
    """Return the defaults for the first GPU; the smaller ones where its memory is not known."""
    total = machine.gpus[0].total if machine else None
    return Limits(0.90, 16_384) if total is not None and total >= LARGE_MIB else Limits(0.85, 8_192)


def describe(machine: Machine, tensor_parallel: int) -> str:
    """Return one line for the log."""
    first = machine.gpus[0]
    memory = f", {_gib(first.total)} GiB" if first.total else ""
    line = f"{first.name}{memory}, driver {machine.driver}"
    rest = len(machine.gpus) - tensor_parallel
    if rest > 0:
        line += (
            f"; {rest} more GPU{'s are' if rest > 1 else ' is'} not used: one container for each "
            "GPU serves more than one container with several"
        )
    return line


def _version(cuda: int) -> str:
    return f"{cuda // 1000}.{cuda % 1000 // 10}"


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f}"
