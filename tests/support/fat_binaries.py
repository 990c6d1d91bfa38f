"""Make fat binaries, and libraries that hold them, without NVIDIA's compiler."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

from device_code import fatbin
from device_code.fatbin import CONTAINER_HEADER, ENTRY_HEADER, Flag, Kind


def entry(
    architecture: str, length: int = 256, *, compressed: bool = False, seed: int = 0, **fields: int
) -> bytes:
    """Return an entry with random content.

    Args:
        architecture: such as sm_80, sm_90a or compute_90.
        length: of the body in bytes.
        compressed: the content is compressed.
        seed: makes contents differ.
        fields: values that deviate: kind, version, head, size, packed, options, arch, name,
            name_length, flags, zero, unpacked.
    """
    kind, _, arch = architecture.partition("_")
    flags = Flag.ADDRESS_64 | Flag.HOST_LINUX
    flags |= Flag.COMPRESSED if compressed else 0
    flags |= Flag.ARCH_SPECIFIC if arch.endswith("a") else 0
    number = int(arch.removesuffix("a"))
    flags |= Flag.SINCE_BLACKWELL if kind == "sm" and number >= 100 else 0
    values = {
        "kind": Kind.MACHINE_CODE if kind == "sm" else Kind.PTX,
        "version": 0x101,
        "head": ENTRY_HEADER.size,
        "size": length,
        "packed": length - 3 if compressed else 0,
        "options": 0,
        "minor": 7,
        "major": 1,
        "arch": number,
        "name": 0,
        "name_length": 0,
        "flags": flags,
        "zero": 0,
        "unpacked": 4 * length if compressed else 0,
    } | fields
    body = bytearray(random.Random(f"{architecture}{seed}").randbytes(length))
    if kind == "sm" and not compressed:
        body[:4] = b"\x7fELF"
    return ENTRY_HEADER.pack(*values.values()) + bytes(body)


def container(*entries: bytes, **fields: int) -> bytes:
    """Return a container; `fields` deviate: magic, version, head, size."""
    size = sum(map(len, entries))
    values = {"magic": fatbin.MAGIC, "version": 1, "head": CONTAINER_HEADER.size, "size": size}
    return CONTAINER_HEADER.pack(*(values | fields).values()) + b"".join(entries)


def parsed(data: bytes) -> list[fatbin.Container]:
    """Parse a section that is the whole of `data`."""
    return fatbin.parse(lambda offset, size: data[offset : offset + size], 0, len(data))


def library(
    folder: Path,
    containers: Sequence[bytes],
    *,
    relocatable: Sequence[bytes] = (),
    unreferenced: Sequence[bytes] = (),
    inside: int = 0,
    flags: Sequence[str] = (),
) -> Path:
    """Compile a shared library with device code.

    Its function `container(i)` returns a pointer to container i.

    Args:
        folder: where it is built.
        containers: of the section .nv_fatbin.
        relocatable: of the section __nv_relfatbin.
        unreferenced: further ones of .nv_fatbin that nothing points to.
        inside: the first pointer leads that many bytes behind the container's beginning.
        flags: of the compiler.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = [".text", ".globl container", ".type container,@function", "container:"]
    text += ["lea table(%rip),%rax", "mov %edi,%edi", "mov (%rax,%rdi,8),%rax", "ret"]
    text += [".size container, .-container"]
    named = [(".nv_fatbin", data) for data in containers]
    named += [("__nv_relfatbin", data) for data in relocatable]
    for number, (section, data) in enumerate(named):
        (folder / f"{number}.fatbin").write_bytes(data)
        text += [f'.section {section},"a",@progbits', ".balign 8", f"fatbin{number}:"]
        text += [f'.incbin "{folder / f"{number}.fatbin"}"']
    for number, data in enumerate(unreferenced):
        (folder / f"u{number}.fatbin").write_bytes(data)
        text += ['.section .nv_fatbin,"a",@progbits', ".balign 8"]
        text += [f'.incbin "{folder / f"u{number}.fatbin"}"']
    text += ['.section .nvFatBinSegment,"aw",@progbits', ".balign 8", "table:"]
    text += [f".quad fatbin{i} + {0 if i else inside}" for i in range(len(named))]
    text += ['.section .note.GNU-stack,"",@progbits', ""]
    (folder / "library.s").write_text("\n".join(text))
    path = folder / "library.so"
    subprocess.run(["gcc", "-shared", "-o", path, *flags, folder / "library.s"], check=True)
    return path
