"""The section table of a library with gaps: what readelf and other tools read, not the loader.

A section with gaps becomes several sections of its name. The further ones come last in the table,
so that no section's index changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from device_code.elf import (
    DYNAMIC_SYMBOLS,
    NO_FILE_CONTENT,
    SYMBOL,
    SYMBOLS,
    ElfError,
    ElfFile,
    Section,
)
from device_code.gaps import Edit, Gap


class SplitSections:
    """The sections of a library with gaps.

    Attributes:
        table: all sections, with places in the old file.
    """

    def __init__(self, elf: ElfFile, gaps: Sequence[Gap]) -> None:
        self._elf = elf
        self._indices: dict[int, list[int]] = {}
        self.table = list(elf.sections)
        edits: dict[int, list[Edit]] = {}
        for gap in gaps:
            edits.setdefault(_section_at(elf, gap.edit.start), []).append(gap.edit)
        for index, within in edits.items():
            first, *further = _parts(elf.sections[index], within)
            self.table[index] = first
            self._indices[index] = [
                index, *range(len(self.table), len(self.table) + len(further))
            ]  # fmt: skip
            self.table += further

    def symbols(self) -> Iterator[tuple[int, bytes]]:
        """Yield the symbols in sections that were split: their places in the file and new content.

        Raises:
            ElfError: such a symbol is exported.
        """
        for section in self._elf.sections:
            if section.type not in (SYMBOLS, DYNAMIC_SYMBOLS):
                continue
            rows = self._elf.read(section.offset, section.size)
            for number, symbol in enumerate(SYMBOL.iter_unpack(rows)):
                parts = self._indices.get(symbol[3], [])
                if parts and section.type == DYNAMIC_SYMBOLS:
                    raise ElfError("the library exports its device code")
                part = next((i for i in parts if _holds(self.table[i], symbol[4])), symbol[3])
                if part != symbol[3]:
                    place = section.offset + number * SYMBOL.size
                    yield place, SYMBOL.pack(*symbol[:3], part, *symbol[4:])


def _parts(section: Section, edits: Sequence[Edit]) -> list[Section]:
    starts = [section.offset, *(edit.end for edit in edits)]
    ends = [*(edit.content_end for edit in edits), section.offset + section.size]
    shift = section.address - section.offset
    return [
        section._replace(
            offset=start,
            address=start + shift,
            size=end - start,
            align=section.align if start == section.offset else 8,
        )
        for start, end in zip(starts, ends, strict=True)
        if end > start
    ]


def _holds(section: Section, address: int) -> bool:
    return section.address <= address < section.address + section.size


def _section_at(elf: ElfFile, offset: int) -> int:
    for index, section in enumerate(elf.sections):
        in_file = section.type != NO_FILE_CONTENT
        if in_file and section.offset <= offset < section.offset + section.size:
            return index
    raise ElfError(f"no section holds the file's content at {offset:#x}")
