"""Read the headers of a shared library: a 64-bit little-endian ELF file for x86-64."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap
from typing import NamedTuple

PAGE = 4096

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")

LOAD, PROGRAM_HEADERS = 1, 6
"""Types of segments: what is mapped into memory, and where this table itself is."""
EXECUTE, READ = 1, 4
"""Flags of segments."""
SYMBOLS, RELA, NO_FILE_CONTENT, DYNAMIC_SYMBOLS = 2, 4, 8, 11
"""Types of sections: symbols, relocations, zeros that only memory has, and exported symbols."""
ALLOCATED, INSTRUCTIONS = 2, 4
"""Flags of sections: in memory, and executable."""
_X86_64_ABSOLUTE = frozenset({1, 8, 37})
"""Relocations that write an address: R_X86_64_64, R_X86_64_RELATIVE, R_X86_64_IRELATIVE."""


class ElfError(Exception):
    """The file is not a shared library of the expected format."""


class Header(NamedTuple):
    """The file's header."""

    ident: bytes
    type: int
    machine: int
    version: int
    entry: int
    segments_offset: int
    sections_offset: int
    flags: int
    size: int
    segment_size: int
    segment_count: int
    section_size: int
    section_count: int
    names_index: int


class Segment(NamedTuple):
    """A program header."""

    type: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    memory_size: int
    align: int


class Section(NamedTuple):
    """A section header."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


@dataclass(frozen=True)
class ElfFile:
    """A library's content and headers."""

    data: mmap | bytes
    header: Header
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]

    @classmethod
    def parse(cls, data: mmap | bytes) -> ElfFile:
        """Read the headers.

        Raises:
            ElfError: it is not a shared library for x86-64, or is cut off.
        """
        if data[:7] != b"\x7fELF\x02\x01\x01":
            raise ElfError("not a 64-bit little-endian ELF file")
        try:
            header = Header._make(HEADER.unpack(data[: HEADER.size]))
            if (header.type, header.machine) != (3, 62):
                raise ElfError("not a shared library for x86-64")
            if (header.segment_size, header.section_size) != (
                SEGMENT.size,
                SECTION.size,
            ) or not header.section_count:
                raise ElfError("no section headers, or headers of unknown size")
            segments = (
                Segment._make(SEGMENT.unpack_from(data, header.segments_offset + i * SEGMENT.size))
                for i in range(header.segment_count)
            )
            sections = (
                Section._make(SECTION.unpack_from(data, header.sections_offset + i * SECTION.size))
                for i in range(header.section_count)
            )
            return cls(data, header, tuple(segments), tuple(sections))
        except struct.error as error:
            raise ElfError(f"headers are cut off: {error}") from None

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file."""
        return self.data[offset : offset + size]

    def name(self, section: Section) -> str:
        """Return a section's name."""
        start = self.sections[self.header.names_index].offset + section.name
        return self.data[start : self.data.find(b"\0", start)].decode()

    def named(self, *names: str) -> list[Section]:
        """Return the sections with one of the names, by address."""
        return sorted((s for s in self.sections if self.name(s) in names), key=lambda s: s.address)

    @cached_property
    def loads(self) -> list[Segment]:
        """Return the segments that are mapped, by address."""
        return sorted((s for s in self.segments if s.type == LOAD), key=lambda s: s.address)

    @cached_property
    def _addresses(self) -> list[int]:
        return [load.address for load in self.loads]

    def memory(self, address: int, size: int) -> bytes:
        """Return what a process sees at an address, before relocation.

        Raises:
            ElfError: nothing is mapped there.
        """
        pieces: list[bytes] = []
        while size > 0:
            index = bisect.bisect_right(self._addresses, address) - 1
            load = self.loads[max(index, 0)]
            inside = address - load.address
            taken = min(size, load.memory_size - inside)
            if index < 0 or taken <= 0:
                raise ElfError(f"nothing is mapped at {address:#x}")
            from_file = min(taken, max(0, load.file_size - inside))
            start = load.offset + inside
            pieces += [self.data[start : start + from_file], bytes(taken - from_file)]
            address, size = address + taken, size - taken
        return b"".join(pieces)

    def pointers(self) -> Iterator[int]:
        """Yield the addresses that the loader writes into the library's data."""
        for section in self.sections:
            if section.type == RELA and section.flags & ALLOCATED:
                rows = self.data[section.offset : section.offset + section.size]
                for _, info, addend in struct.iter_unpack("<QQq", rows):
                    if info & 0xFFFFFFFF in _X86_64_ABSOLUTE and info >> 32 == 0:
                        yield addend
