"""Cut a CUDA library to the device code that the driver would choose on given GPUs.

The result is written only with a proof: for every container and every GPU, the driver's rule
chooses the same bytes before and after, and all else in memory is the same.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from device_code import choice, compact, fatbin, proof
from device_code.elf import ElfError, ElfFile
from device_code.fatbin import Container, FatbinError
from device_code.gaps import Edit


class Cut(NamedTuple):
    """What became of a library.

    Attributes:
        before: size of the file in bytes.
        after: the new size.
        left_whole: why the library was not cut; None where it was.
    """

    before: int
    after: int
    left_whole: str | None


def cut(path: Path, gpus: Sequence[int]) -> Cut | None:
    """Cut one library in place.

    Args:
        path: a file.
        gpus: 10 * major + minor of each compute capability.

    Returns:
        What was done; None for a file without device code.

    Raises:
        ProofError: the cut library would not behave as before: a fault of this program.
    """
    new = path.with_name(f".{path.name}.cut")
    with _mapped(path) as data:
        if data[:4] != b"\x7fELF":
            return None
        size = len(data)
        try:
            elf = ElfFile.parse(data)
            if not elf.named(*fatbin.SECTIONS):
                return None
            found = containers(elf)
            edits = [
                Edit(c.offset, c.offset + c.size, _content(elf, c, gpus))
                for c in _movable(elf, found)
            ]
            edits = [edit for edit in edits if edit.content_end < edit.end]
            if not edits:
                return Cut(size, size, None)
            with new.open("wb") as out:
                compact.write(elf, edits, out)
        except (ElfError, FatbinError) as error:
            new.unlink(missing_ok=True)
            return Cut(size, size, str(error))
        with _mapped(new) as written:
            proof.prove(elf, ElfFile.parse(written), found, gpus)
    new.chmod(path.stat().st_mode & 0o7777)
    new.replace(path)
    return Cut(size, path.stat().st_size, None)


def architectures(path: Path) -> Counter[str]:
    """Return the bytes of each architecture in a library, by the compiler's names.

    Raises:
        ElfError, FatbinError: the library cannot be parsed.
    """
    found: Counter[str] = Counter()
    with _mapped(path) as data:
        for container in containers(ElfFile.parse(data)):
            for entry in container.entries:
                found[entry.name] += entry.size
    return found


def names(path: Path) -> list[str]:
    """Return the architecture of each entry of a library, in their order.

    Raises:
        ElfError, FatbinError: the library cannot be parsed.
    """
    with _mapped(path) as data:
        return [e.name for c in containers(ElfFile.parse(data)) for e in c.entries]


def containers(elf: ElfFile) -> list[Container]:
    """Return the containers of all sections, with their places in the file.

    Raises:
        FatbinError: a section has another format.
    """
    return [
        container
        for section in elf.named(*fatbin.SECTIONS)
        for container in fatbin.parse(elf.read, section.offset, section.size)
    ]


def _movable(elf: ElfFile, every: Iterable[Container]) -> Iterator[Container]:
    """Yield the containers whose content may move: pointers lead to their beginnings only.

    Raises:
        ElfError: a pointer leads into a container.
    """
    sections = elf.named(*fatbin.SECTIONS)
    pointers = {
        pointer - section.address + section.offset
        for pointer in elf.pointers()
        for section in sections
        if section.address <= pointer < section.address + section.size
    }
    found = [c for c in every if c.offset in pointers]
    if stray := pointers - {c.offset for c in found}:
        raise ElfError(f"a pointer leads into a container, to {min(stray):#x}")
    yield from found


def _content(elf: ElfFile, container: Container, gpus: Sequence[int]) -> tuple[bytes, ...]:
    entries = choice.kept(container, gpus)
    bodies = [elf.read(entry.offset, entry.size) for entry in entries]
    return (fatbin.header(sum(map(len, bodies))), *bodies)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    if path.stat().st_size == 0:  # cannot be mapped
        yield b""
        return
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with data:
        yield data
