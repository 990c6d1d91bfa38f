"""Leave empty pages of a shared library out of its file, with every address unchanged.

A mapped part of the file is split at each empty range. The range becomes a segment without file
content, as uninitialised data has: the loader fills it with zeros, and only memory has it.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from device_code.elf import (
    EXECUTE,
    INSTRUCTIONS,
    LOAD,
    PAGE,
    PROGRAM_HEADERS,
    READ,
    SEGMENT,
    ElfError,
    ElfFile,
    Segment,
)

SMALLEST_GAP = 64 * 1024
"""Smaller empty ranges stay in the file as zeros: each gap costs two mappings in a process."""


@dataclass(frozen=True)
class Edit:
    """New content for a range of the file; zeros fill the rest of the range.

    Attributes:
        start: where the range begins in the file.
        end: where it ends.
        parts: the content.
    """

    start: int
    end: int
    parts: tuple[bytes, ...]

    @property
    def content_end(self) -> int:
        """Return where the zeros begin."""
        return self.start + sum(len(part) for part in self.parts)


@dataclass(frozen=True)
class Gap:
    """Whole pages of zeros behind an edit's content.

    Attributes:
        edit: the edit.
        start: where the first page begins in the old file.
        end: where the last page ends.
    """

    edit: Edit
    start: int
    end: int

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return self.end - self.start


class Offsets:
    """Translate places of the old file to places of the file without the gaps."""

    def __init__(self, gaps: Sequence[Gap]) -> None:
        self._ends = [gap.end for gap in gaps]
        self._dropped = [0, *itertools.accumulate(gap.size for gap in gaps)]

    def new(self, offset: int) -> int:
        """Return the new place of what was at `offset`."""
        return offset - self._dropped[bisect.bisect_right(self._ends, offset)]


def find_gaps(elf: ElfFile, edits: Sequence[Edit]) -> list[Gap]:
    """Return the gaps that edits leave, by their place in the file.

    Raises:
        ElfError: the library is laid out in a way that is not supported.
    """
    found: list[Gap] = []
    for edit in edits:
        gap = Gap(edit, up(edit.content_end), edit.end // PAGE * PAGE)
        load = load_at(elf, edit.start)
        if (load.address - load.offset) % PAGE or edit.end > load.offset + load.file_size:
            raise ElfError(f"the segment at {load.offset:#x} cannot be split")
        if gap.size >= SMALLEST_GAP:
            found.append(gap)
    return found


def reserve_table(elf: ElfFile, gaps: Sequence[Gap]) -> tuple[list[Gap], int]:
    """Make room for the longer table of program headers where the first large enough gap begins.

    In front of the first gap, a place in the file is also the distance from the first address.

    Returns:
        The gaps, that one shortened, and where the table begins in the old file.

    Raises:
        ElfError: no gap is large enough.
    """
    size = up(len(split_segments(elf, gaps)) * SEGMENT.size)
    for index, gap in enumerate(gaps):
        if gap.size > size:
            shorter = Gap(gap.edit, gap.start + size, gap.end)
            return [*gaps[:index], shorter, *gaps[index + 1 :]], gap.start
    raise ElfError("no room for the table of program headers")


def split_segments(elf: ElfFile, gaps: Sequence[Gap]) -> list[Segment]:
    """Return the program headers of the new file.

    Raises:
        ElfError: a segment that is not just mapped covers a gap or the table of segments.
    """
    offsets = Offsets(gaps)
    found: list[Segment] = []
    for segment in elf.segments:
        end = segment.offset + segment.file_size
        inside = [gap for gap in gaps if segment.offset <= gap.start < end]
        if segment.type == PROGRAM_HEADERS or (inside and segment.type != LOAD):
            raise ElfError(f"a segment of type {segment.type:#x} would have to change")
        for part in _split(elf, segment, inside) if inside else [segment]:
            without_content = part.type == LOAD and part.file_size == 0
            offset = content_end(elf, offsets) if without_content else offsets.new(part.offset)
            aligned = part.align <= 1 or (part.address - offset) % part.align == 0
            found.append(part._replace(offset=offset, align=part.align if aligned else PAGE))
    return found


def content_end(elf: ElfFile, offsets: Offsets) -> int:
    """Return the place behind all that is mapped, where the new file's gaps formally are."""
    return up(max(offsets.new(load.offset + load.file_size) for load in elf.loads))


def _split(elf: ElfFile, load: Segment, gaps: Sequence[Gap]) -> list[Segment]:
    """Return a segment for the content in front of each gap, one for the gap, and so on."""
    found: list[Segment] = []
    shift = load.address - load.offset
    data_flags = load.flags & ~EXECUTE | READ

    def add(start: int, end: int, memory_end: int, flags: int) -> None:
        if memory_end > start:
            align = load.align if start == load.offset else PAGE
            at = start + shift
            found.append(
                Segment(LOAD, flags, start, at, at, end - start, memory_end - start, align)
            )

    at = load.offset
    for gap in gaps:
        flags = load.flags if _has_code(elf, at, gap.start) else data_flags
        add(at, gap.start, gap.start, flags)
        add(gap.start, gap.start, gap.end, data_flags)
        at = gap.end
    end = load.offset + load.file_size
    flags = load.flags if _has_code(elf, at, end) else data_flags
    add(at, end, load.offset + load.memory_size, flags)
    return found


def _has_code(elf: ElfFile, start: int, end: int) -> bool:
    return any(
        section.flags & INSTRUCTIONS
        and section.offset < end
        and start < section.offset + section.size
        for section in elf.sections
    )


def load_at(elf: ElfFile, offset: int) -> Segment:
    """Return the segment that maps a place of the file.

    Raises:
        ElfError: there is none.
    """
    for load in elf.loads:
        if load.offset <= offset < load.offset + load.file_size:
            return load
    raise ElfError(f"nothing maps the file at {offset:#x}")


def up(number: int) -> int:
    """Round up to a whole page."""
    return -(-number // PAGE) * PAGE
