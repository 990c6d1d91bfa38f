"""Read NVIDIA fat binaries: the same kernels for many GPU architectures, one after another.

A CUDA library holds them in the ELF sections named in `SECTIONS`. A section is a row of containers,
one for each compiled source file; a container is a row of entries, one for each architecture, each
with a header that gives its kind, architecture and size. NVIDIA does not document the format. The
parser therefore accepts exactly what it knows and refuses everything else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import NamedTuple

SECTIONS = (".nv_fatbin", "__nv_relfatbin")
"""Linked and relocatable device code."""

MAGIC = 0xBA55ED50
CONTAINER_HEADER = struct.Struct("<IHHQ")
"""Magic, version, size of this header, size of all entries."""
ENTRY_HEADER = struct.Struct("<HHIQIIHHIIIQQQ")
"""Kind, version, size of the header, size of the body, size of the compressed data, offset of the
compiler's options, minor and major version of the code, architecture, offset and length of the
name, flags, zero, size of the decompressed data. Longer headers end with the options."""

ALIGNMENT = 8

Read = Callable[[int, int], bytes]
"""Return that many bytes from that place; fewer at the end."""


class FatbinError(Exception):
    """The bytes are not a fat binary of the known format."""


class Kind(IntEnum):
    """Kind of an entry."""

    PTX = 1
    MACHINE_CODE = 2


class Flag(IntFlag):
    """Known flags of an entry."""

    ADDRESS_64 = 0x1
    HOST_LINUX = 0x10
    COMPRESSED = 0x2000
    ZSTANDARD = 0x8000
    """Compressed, too, in another way."""
    ARCH_SPECIFIC = 0x100000
    """For exactly this architecture, such as sm_90a."""
    FAMILY_SPECIFIC = 0x200000
    """For the architectures of its major version, as other machine code is: such as sm_100f."""
    SINCE_BLACKWELL = 0x1000000
    """Set on machine code of all architectures since sm_100, and on nothing else."""


_KNOWN = sum(Flag)
_COMPRESSED = Flag.COMPRESSED | Flag.ZSTANDARD


class Entry(NamedTuple):
    """The code for one architecture.

    Attributes:
        offset: where its header begins.
        size: of header and body, in bytes.
        kind: machine code or PTX.
        arch: 10 * major + minor of the compute capability.
        exact: the code runs on this architecture only (sm_90a).
    """

    offset: int
    size: int
    kind: Kind
    arch: int
    exact: bool

    @property
    def name(self) -> str:
        """Return the compiler's name of the architecture."""
        prefix = "sm" if self.kind is Kind.MACHINE_CODE else "compute"
        return f"{prefix}_{self.arch}{'a' if self.exact else ''}"


class Container(NamedTuple):
    """What was compiled from one source file.

    Attributes:
        offset: where its header begins; the library's code points here.
        size: of the header and all entries, in bytes.
        entries: in their order.
    """

    offset: int
    size: int
    entries: tuple[Entry, ...]


def header(entries_size: int) -> bytes:
    """Return the header of a container whose entries have that many bytes."""
    return CONTAINER_HEADER.pack(MAGIC, 1, CONTAINER_HEADER.size, entries_size)


def parse(read: Read, offset: int, size: int) -> list[Container]:
    """Return the containers of a section.

    Args:
        read: reads the file.
        offset: where the section begins.
        size: of the section, in bytes.

    Raises:
        FatbinError: the section has anything but containers of the known format, and zeros between
            them.
    """
    found: list[Container] = []
    at, end = offset, offset + size
    while at < end:
        word = read(at, min(ALIGNMENT, end - at))
        if not any(word):
            at += len(word)
            continue
        container = parse_container(read, at, end)
        found.append(container)
        at += container.size
    return found


def parse_container(read: Read, offset: int, end: int) -> Container:
    """Return the container at `offset`, which must end at `end` or before.

    Raises:
        FatbinError: it has another format.
    """
    magic, version, head, size = _unpack(CONTAINER_HEADER, read, offset, end)
    _require(magic == MAGIC, offset, f"magic {magic:#x}")
    _require(version == 1, offset, f"container version {version}")
    _require(head == CONTAINER_HEADER.size, offset, f"container header of {head} bytes")
    stop = offset + head + size
    _require(stop <= end, offset, "container that is longer than its section")
    entries: list[Entry] = []
    at = offset + head
    while at < stop:
        entry = _parse_entry(read, at, stop)
        entries.append(entry)
        at += entry.size
    _require(bool(entries), offset, "container without entries")
    return Container(offset, head + size, tuple(entries))


def _parse_entry(read: Read, at: int, end: int) -> Entry:
    (kind, version, head, size, packed, options, _, _, arch, name, name_length, flags, zero,
     unpacked) = _unpack(ENTRY_HEADER, read, at, end)  # fmt: skip
    _require(kind in (Kind.PTX, Kind.MACHINE_CODE), at, f"kind {kind}")
    _require(version == 0x101, at, f"entry version {version:#x}")
    _require(
        head >= ENTRY_HEADER.size and head % ALIGNMENT == 0, at, f"entry header of {head} bytes"
    )
    _require(size > 0 and size % ALIGNMENT == 0, at, f"body of {size} bytes")
    _require(at + head + size <= end, at, "entry that is longer than its container")
    _require(options <= head, at, f"options at {options} behind the header")
    _require(10 <= arch < 1000, at, f"architecture {arch}")
    _require(not (name or name_length or zero), at, "name or unknown field")
    _require(flags & ~_KNOWN == 0 and flags & _COMPRESSED != _COMPRESSED, at, f"flags {flags:#x}")
    since_blackwell = kind == Kind.MACHINE_CODE and arch >= 100
    _require(bool(flags & Flag.SINCE_BLACKWELL) == since_blackwell, at, f"flags {flags:#x}")
    _require(since_blackwell or not flags & Flag.FAMILY_SPECIFIC, at, f"flags {flags:#x}")
    if flags & _COMPRESSED:
        _require(size - ALIGNMENT < packed <= size, at, f"{packed} compressed of {size} bytes")
        _require(unpacked > 0, at, "compressed entry without its decompressed size")
    else:
        _require(packed == unpacked == 0, at, "sizes of a compressed entry without the flag")
        if kind == Kind.MACHINE_CODE:
            _require(read(at + head, 4) == b"\x7fELF", at, "machine code that is not ELF")
    return Entry(at, head + size, Kind(kind), arch, bool(flags & Flag.ARCH_SPECIFIC))


def _unpack(form: struct.Struct, read: Read, at: int, end: int) -> tuple[int, ...]:
    _require(at + form.size <= end, at, "header that is cut off")
    return form.unpack(read(at, form.size))


def _require(condition: bool, at: int, found: str) -> None:
    if not condition:
        raise FatbinError(f"unknown format at {at:#x}: {found}")
