"""Prove that a library whose device code was cut does the same as before on given GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from device_code import choice, fatbin
from device_code.elf import (
    ALLOCATED,
    HEADER,
    LOAD,
    NO_FILE_CONTENT,
    SYMBOL,
    SYMBOLS,
    ElfFile,
    Section,
)
from device_code.fatbin import Container

CHUNK = 1 << 24


class ProofError(Exception):
    """The two libraries differ in something that matters."""


def prove(
    before: ElfFile, after: ElfFile, containers: Iterable[Container], gpus: Sequence[int]
) -> None:
    """Compare two versions of a library as a process would see them in memory.

    Args:
        before: the library as it was.
        after: the library as it was written.
        containers: of the former, with places in its file.
        gpus: 10 * major + minor of each compute capability.

    Raises:
        ProofError: naming the first difference.
    """
    ranges: list[tuple[int, int]] = []
    for section in before.named(*fatbin.SECTIONS):
        shift = section.address - section.offset
        for container in containers:
            if section.offset <= container.offset < section.offset + section.size:
                ranges.append((container.offset + shift, container.size))
                _prove_choice(before, after, container, container.offset + shift, gpus)
    _prove_memory(before, after, sorted(ranges))
    _prove_rest(before, after)


def _prove_choice(
    before: ElfFile, after: ElfFile, container: Container, address: int, gpus: Sequence[int]
) -> None:
    new = fatbin.parse_container(after.memory, address, address + container.size)
    for gpu in gpus:
        old_code = [before.read(e.offset, e.size) for e in choice.chosen(container, gpu)]
        new_code = [after.memory(e.offset, e.size) for e in choice.chosen(new, gpu)]
        _require(old_code == new_code, f"sm_{gpu} is given other code at {address:#x}")


def _prove_memory(before: ElfFile, after: ElfFile, skipped: Sequence[tuple[int, int]]) -> None:
    """Prove that memory is the same outside the file's header and the given address ranges."""
    for load in before.loads:
        at, end = load.address, load.address + load.memory_size
        at += HEADER.size if load.offset == 0 else 0
        inside = [(a, s) for a, s in skipped if at <= a < end]
        for address, size in [*inside, (end, 0)]:
            while at < address:
                part = min(CHUNK, address - at)
                _require(
                    before.memory(at, part) == after.memory(at, part), f"memory at {at:#x} differs"
                )
                at += part
            at = address + size


def _prove_rest(before: ElfFile, after: ElfFile) -> None:
    """Prove that all other segments and all sections outside memory are the same."""
    rest = [[s for s in elf.segments if s.type != LOAD] for elf in (before, after)]
    _require(len(rest[0]) == len(rest[1]), "the number of segments differs")
    for old, new in zip(*rest, strict=True):
        same = (old.type, old.address, old.memory_size) == (new.type, new.address, new.memory_size)
        _require(same, f"the segment of type {old.type:#x} differs")
        _require(
            before.read(old.offset, old.file_size) == after.read(new.offset, new.file_size),
            f"the content of the segment of type {old.type:#x} differs",
        )
    _require(before.header.entry == after.header.entry, "the entry point differs")
    for index, old_section in enumerate(before.sections):
        new_section = after.sections[index]
        _require(
            before.name(old_section) == after.name(new_section), f"section {index} has another name"
        )
        if old_section.flags & ALLOCATED or old_section.type == NO_FILE_CONTENT:
            continue
        contents = [
            _content(elf, section) for elf, section in ((before, old_section), (after, new_section))
        ]
        _require(contents[0] == contents[1], f"the section {before.name(old_section)} differs")


def _content(elf: ElfFile, section: Section) -> object:
    """Return a section's content; of symbols, the names of their sections instead of numbers."""
    rows = elf.read(section.offset, section.size)
    if section.type != SYMBOLS:
        return rows
    names = {index: elf.name(section) for index, section in enumerate(elf.sections)}
    return [
        (*symbol[:3], names.get(symbol[3], symbol[3]), *symbol[4:])
        for symbol in SYMBOL.iter_unpack(rows)
    ]


def _require(condition: bool, found: str) -> None:
    if not condition:
        raise ProofError(found)
