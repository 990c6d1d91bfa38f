"""Print what in PyTorch's CUDA code calls a library: evidence for `stub` of docker/layers.toml.

    .venv/bin/python -m benchmarks.callers libtorch_cuda.so libcufft.so.11 [LIBRARY ...]

Follows calls backwards through the machine code, from the library's functions to those that
nothing calls directly: the dispatcher's wrappers (`wrapper_CUDA__fft_r2c` is the operator
`aten::_fft_r2c` on CUDA), kernels that are registered with a dispatch stub, and exported functions,
which other libraries may call. It needs the symbol table, so the file of the wheel and not the
image's, which is stripped.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from device_code.elf import DYNAMIC_SYMBOLS, INSTRUCTIONS, RELA, SYMBOL, ElfFile

CHUNK = 1 << 24


class Callers:
    """The references between the functions of a library."""

    def __init__(self, path: Path) -> None:
        self.elf = ElfFile.parse(path.read_bytes())
        self._functions(path)
        self.imports = dict(self._imports())
        own = {name: at for at, name in self.names.items()}
        targets = np.unique(np.array([*self.starts, *self.imports], dtype=np.int64))
        self.callers: dict[int, set[int]] = {}
        for source, target in self._references(targets):
            exported = own.get(self.imports.get(target, ""), target)
            self.callers.setdefault(exported, set()).add(self.function(source))

    def _functions(self, path: Path) -> None:
        rows = subprocess.run(
            ["nm", "--defined-only", path], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        parts = [row.split(" ", 2) for row in rows]
        self.names = {int(at, 16): name for at, kind, name in parts if kind in "tTwWi"}
        self.starts = np.array(sorted(self.names), dtype=np.int64)

    def _imports(self) -> Iterator[tuple[int, str]]:
        """Yield address and name: slots of imported functions, and stubs that jump there."""
        [table] = [s for s in self.elf.sections if s.type == DYNAMIC_SYMBOLS]
        texts = self.elf.sections[table.link].offset
        slots: dict[int, str] = {}
        for section in self.elf.sections:
            if section.type != RELA:
                continue
            rows = np.frombuffer(self.elf.read(section.offset, section.size), "<u8").reshape(-1, 3)
            for slot, info, _ in rows[rows[:, 1] >> 32 != 0]:
                at = table.offset + int(info >> 32) * SYMBOL.size
                start = texts + SYMBOL.unpack(self.elf.read(at, SYMBOL.size))[0]
                end = self.elf.data.find(b"\0", start)
                slots[int(slot)] = self.elf.data[start:end].decode()
        yield from slots.items()
        for section in self.elf.named(".plt", ".plt.got", ".plt.sec"):
            code = self.elf.read(section.offset, section.size)
            width = section.entry_size or 8
            at = code.find(b"\xff\x25")
            while at >= 0:
                distance = int.from_bytes(code[at + 2 : at + 6], "little", signed=True)
                if name := slots.get(section.address + at + 6 + distance):
                    yield section.address + at // width * width, name
                at = code.find(b"\xff\x25", at + 1)

    def _references(self, targets: np.ndarray) -> Iterator[tuple[int, int]]:
        """Yield where an instruction refers to one of the addresses, and to which."""
        for section in self.elf.sections:
            if not section.flags & INSTRUCTIONS or ".plt" in self.elf.name(section):
                continue
            for begin in range(0, section.size, CHUNK):
                code = self.elf.read(section.offset + begin, min(CHUNK + 8, section.size - begin))
                opcodes = np.frombuffer(code, np.uint8)
                for shift in range(4, 8):
                    count = (len(code) - shift) // 4
                    distances = np.frombuffer(code, "<i4", count, shift).astype(np.int64)
                    places = shift + 4 * np.arange(count)
                    reached = section.address + begin + places + 4 + distances
                    slot = np.minimum(np.searchsorted(targets, reached), len(targets) - 1)
                    before, second = opcodes[places - 1], opcodes[places - 2]
                    refers = (before == 0xE8) | (before == 0xE9)
                    refers |= (before & 0xF0 == 0x80) & (second == 0x0F)
                    relative = (before & 0xC7) == 0x05
                    refers |= relative & np.isin(second, (0x8D, 0x8B, 0xFF))
                    hit = refers & (targets[slot] == reached)
                    sources = section.address + begin + places[hit]
                    yield from zip(sources.tolist(), reached[hit].tolist(), strict=True)

    def function(self, address: int) -> int:
        """Return where the function at an address begins."""
        return int(self.starts[np.searchsorted(self.starts, address, side="right") - 1])

    def roots(self, functions: set[str]) -> dict[int, set[str]]:
        """Return the functions without a caller that lead to imported ones, and to which."""
        found: dict[int, set[str]] = {}
        for name in sorted(functions):
            start = [at for at, imported in self.imports.items() if imported == name]
            seen, waiting = set(start), list(start)
            while waiting:
                at = waiting.pop()
                registered = "wrapper_" in self.names.get(at, "")
                callers = set() if registered else self.callers.get(at, set()) - {at}
                if not callers and at not in start:
                    found.setdefault(at, set()).add(name)
                waiting += callers - seen
                seen |= callers
        return found


def demangled(names: list[str]) -> list[str]:
    """Return C++ names as a person writes them."""
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


def main() -> None:
    """Print a list for each library."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("caller", type=Path, help="libtorch_cuda.so of the wheel")
    parser.add_argument("libraries", type=Path, nargs="+", help="what it may call")
    given = parser.parse_args()
    callers = Callers(given.caller)
    for library in given.libraries:
        rows = subprocess.run(
            ["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        exported = {name for row in rows if (name := row.split()[-1].split("@")[0])[0] != "_"}
        used = exported & set(callers.imports.values())
        print(f"{library.name}: {len(used)} of {len(exported)} functions are imported")
        roots = callers.roots(used)
        names = demangled([callers.names[at] for at in roots])
        for name, reached in sorted(zip(names, roots.values(), strict=True)):
            print(f"  {name}: {', '.join(sorted(reached)[:4])}{' ...' if len(reached) > 4 else ''}")


if __name__ == "__main__":
    main()
