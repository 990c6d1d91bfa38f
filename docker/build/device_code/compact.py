"""Write a shared library with edits, without the pages that they leave empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO

from device_code.elf import HEADER, SECTION, SEGMENT, ElfFile
from device_code.gaps import (
    Edit,
    Gap,
    Offsets,
    content_end,
    find_gaps,
    reserve_table,
    split_segments,
)
from device_code.sections import SplitSections


def write(elf: ElfFile, edits: Sequence[Edit], out: BinaryIO) -> None:
    """Write the library with the edits applied.

    Args:
        elf: the library.
        edits: by their place in the file; each is within one section.
        out: an empty file.

    Raises:
        ElfError: the library is laid out in a way that is not supported.
    """
    header = elf.header
    gaps = find_gaps(elf, edits)
    if gaps:
        gaps, table = reserve_table(elf, gaps)
        offsets = Offsets(gaps)
        segments = split_segments(elf, gaps)
        header = header._replace(segments_offset=offsets.new(table), segment_count=len(segments))
    else:
        offsets, segments = Offsets([]), list(elf.segments)
    sections = SplitSections(elf, gaps)
    symbols = list(sections.symbols())

    _write_content(elf, edits, {gap.edit.start: gap for gap in gaps}, out)
    end = max(_aligned(out.tell()), content_end(elf, offsets) if gaps else 0)
    out.write(bytes(end - out.tell()))
    for section in sections.table:
        out.write(SECTION.pack(*section._replace(offset=offsets.new(section.offset))))
    header = header._replace(sections_offset=end, section_count=len(sections.table))

    out.seek(header.segments_offset)
    out.write(b"".join(SEGMENT.pack(*segment) for segment in segments))
    for place, symbol in symbols:
        out.seek(offsets.new(place))
        out.write(symbol)
    out.seek(0)
    out.write(HEADER.pack(*header))


def _write_content(
    elf: ElfFile, edits: Sequence[Edit], gaps: Mapping[int, Gap], out: BinaryIO
) -> None:
    """Write everything but the table of sections, which usually ends a file."""
    table_end = elf.header.sections_offset + elf.header.section_count * SECTION.size
    end = elf.header.sections_offset if table_end == len(elf.data) else len(elf.data)
    at = 0
    with memoryview(elf.data) as view:
        for edit in edits:
            out.write(view[at : edit.start])
            for part in edit.parts:
                out.write(part)
            dropped = gaps[edit.start].size if edit.start in gaps else 0
            out.write(bytes(edit.end - edit.content_end - dropped))
            at = edit.end
        out.write(view[at:end])


def _aligned(offset: int) -> int:
    return -(-offset // 8) * 8
