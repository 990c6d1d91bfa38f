"""The CUDA driver's rule: which entry of a fat binary's container a GPU is given.

The driver takes the machine code of the highest architecture that has the GPU's major version and
is not above the GPU's own; only without one does it compile the PTX of the highest version up to
the GPU's. Code for an architecture-specific target such as sm_90a runs on that architecture alone.
See "Binary Compatibility" and "PTX Compatibility" in the CUDA C++ Programming Guide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from device_code.fatbin import Container, Entry, Kind

TEGRA = frozenset({53, 62, 72, 87, 101})
"""Architectures of systems on a chip. Their code does not run on other GPUs of the major version,
and whether the driver skips it is not documented: what either way would choose is kept."""


def chosen(container: Container, gpu: int) -> tuple[Entry, ...]:
    """Return the entries that the driver may take on a GPU; none where nothing fits.

    There are several where a container has more than one of the highest architecture, or one of
    `TEGRA` that the driver may skip.

    Args:
        container: the choice.
        gpu: 10 * major + minor of its compute capability.
    """
    others = [e for e in container.entries if e.arch == gpu or e.arch not in TEGRA]
    wanted = {*_highest(container.entries, gpu), *_highest(others, gpu)}
    return tuple(entry for entry in container.entries if entry in wanted)


def _highest(entries: Sequence[Entry], gpu: int) -> list[Entry]:
    fitting = [e for e in entries if e.arch == gpu or (e.arch < gpu and not e.exact)]
    code = [e for e in fitting if e.kind is Kind.MACHINE_CODE and e.arch // 10 == gpu // 10]
    code = code or [e for e in fitting if e.kind is Kind.PTX]
    highest = max((e.arch for e in code), default=0)
    return [e for e in code if e.arch == highest]


def kept(container: Container, gpus: Iterable[int]) -> tuple[Entry, ...]:
    """Return the entries that at least one of the GPUs is given, in their order.

    A container is never empty: where no GPU is given anything, its smallest entry stays, so that
    the driver finds a container without code for the GPU, as before.
    """
    wanted = {entry for gpu in gpus for entry in chosen(container, gpu)}
    if not wanted:
        wanted = {min(container.entries, key=lambda entry: entry.size)}
    return tuple(entry for entry in container.entries if entry in wanted)
