"""Libraries with device code: what is cut, what stays, and that they load as before."""

from __future__ import annotations

import ctypes
import multiprocessing
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from device_code import library as device_library
from device_code import proof
from device_code.elf import ElfFile
from device_code.gaps import SMALLEST_GAP
from device_code.library import Cut

from tests.support import debian, fat_binaries
from tests.support.fat_binaries import container, entry

GPUS = (80, 86, 89, 90)
LARGE = 4 * SMALLEST_GAP

pytestmark = pytest.mark.usefixtures("gcc")

CONTAINERS = [
    container(entry("sm_50", LARGE), entry("sm_80", 4096), entry("sm_90a", 8200, compressed=True)),
    container(entry("sm_86", 264), entry("compute_50", 512)),
    container(entry("sm_70", LARGE), entry("sm_75", 64)),
    container(entry("compute_90", LARGE), entry("sm_90", LARGE), entry("sm_89", 512)),
    container(entry("compute_80", LARGE, compressed=True), entry("sm_60", LARGE, compressed=True)),
]
KEPT = [
    container(entry("sm_80", 4096), entry("sm_90a", 8200, compressed=True)),
    container(entry("sm_86", 264), entry("compute_50", 512)),
    container(entry("sm_75", 64)),
    container(entry("sm_90", LARGE), entry("sm_89", 512)),
    container(entry("compute_80", LARGE, compressed=True)),
]


def loaded(path: Path, sizes: list[int]) -> list[bytes]:
    """Load a library in another process; return its containers as they are in memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_loaded, (path, sizes))


def _loaded(path: Path, sizes: list[int]) -> list[bytes]:
    function = ctypes.CDLL(str(path)).container
    function.restype = ctypes.c_void_p
    return [ctypes.string_at(function(i), size) for i, size in enumerate(sizes)]


def complaints(path: Path) -> list[str]:
    """Return what eu-elflint says of a file, without numbers of program headers."""
    done = subprocess.run(["eu-elflint", "--gnu-ld", path], capture_output=True, text=True)
    return sorted(re.sub(r"\[ *\d+\]", "[]", line) for line in done.stdout.splitlines())


def test_a_library_keeps_what_the_gpus_are_given(tmp_path: Path) -> None:
    path = fat_binaries.library(tmp_path, CONTAINERS)
    before = path.stat().st_size
    path.chmod(0o755)
    done = device_library.cut(path, GPUS)
    assert done == Cut(before, path.stat().st_size, None)
    assert done.after < before - 3.9 * LARGE
    assert path.stat().st_mode & 0o777 == 0o755
    found = loaded(path, [len(data) for data in CONTAINERS])
    for number, (memory, kept) in enumerate(zip(found, KEPT, strict=True)):
        assert memory[: len(kept)] == kept
        if number:  # the table of segments is behind the first
            assert not any(memory[len(kept) :])
    assert device_library.architectures(path) == {
        "compute_50": 576, "sm_75": 128, "sm_80": 4160, "sm_86": 328, "sm_89": 576,
        "sm_90": LARGE + 64, "sm_90a": 8264, "compute_80": LARGE + 64,
    }  # fmt: skip


def test_the_empty_pages_are_not_in_the_file(tmp_path: Path) -> None:
    path = fat_binaries.library(tmp_path, CONTAINERS)
    old = ElfFile.parse(path.read_bytes())
    device_library.cut(path, GPUS)
    new = ElfFile.parse(path.read_bytes())
    empty = [load for load in new.loads if load.file_size == 0]
    assert len(empty) == 4
    assert all(load.flags == 4 for load in empty), "memory without a file is only read"
    assert [(s.address, new.name(s)) for s in new.sections[: len(old.sections)]] == [
        (s.address, old.name(s)) for s in old.sections
    ]
    assert len(new.named(".nv_fatbin")) == 4


def test_relocatable_device_code_is_cut_too(tmp_path: Path) -> None:
    path = fat_binaries.library(tmp_path, CONTAINERS[:1], relocatable=CONTAINERS[3:])
    device_library.cut(path, GPUS)
    kept = [KEPT[0], *KEPT[3:]]
    assert loaded(path, [len(data) for data in kept]) == kept


def test_the_result_is_the_same_every_time(tmp_path: Path) -> None:
    path = fat_binaries.library(tmp_path, CONTAINERS)
    copy = tmp_path / "copy.so"
    shutil.copyfile(path, copy)
    device_library.cut(path, GPUS)
    device_library.cut(copy, GPUS)
    assert path.read_bytes() == copy.read_bytes()
    device_library.cut(copy, GPUS)
    assert path.read_bytes() == copy.read_bytes(), "a library that was cut changes no more"


@pytest.mark.parametrize("flags", [[], ["-Wl,-z,separate-code"], ["-Wl,-z,noseparate-code"]])
def test_tools_find_no_fault(tmp_path: Path, flags: list[str]) -> None:
    debian.require_program("eu-elflint", "elfutils")
    path = fat_binaries.library(tmp_path, CONTAINERS, flags=flags)
    before = complaints(path)
    device_library.cut(path, GPUS)
    assert complaints(path) == before
    done = subprocess.run(["readelf", "-aW", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_small_cuts_leave_zeros(tmp_path: Path) -> None:
    data = container(entry("sm_50", 9000), entry("sm_80", 9000))
    path = fat_binaries.library(tmp_path, [data])
    before = path.stat().st_size
    device_library.cut(path, GPUS)
    assert abs(path.stat().st_size - before) <= 64
    assert loaded(path, [len(data)]) == [container(entry("sm_80", 9000)) + bytes(9064)]


def test_a_container_that_nothing_points_to_stays(tmp_path: Path) -> None:
    path = fat_binaries.library(tmp_path, CONTAINERS[:1], unreferenced=CONTAINERS[3:4])
    device_library.cut(path, GPUS)
    assert device_library.architectures(path)["compute_90"] == LARGE + 64


@pytest.mark.parametrize(
    ("containers", "inside", "message"),
    [
        ([container(entry("sm_50"), entry("sm_80", kind=9))], 0, "unknown format at .* kind 9"),
        ([CONTAINERS[0] + b"\1" * 16], 0, "unknown format at .* magic 0x1010101"),
        (CONTAINERS[:1], 16, "a pointer leads into a container"),
        ([container(entry("sm_50", LARGE), entry("sm_80"))] * 120, 0, None),
    ],
)
def test_what_cannot_be_cut_is_left_whole_and_listed(
    tmp_path: Path, containers: list[bytes], inside: int, message: str | None
) -> None:
    path = fat_binaries.library(tmp_path, containers, inside=inside)
    before = path.read_bytes()
    done = device_library.cut(path, GPUS)
    assert done
    if message is None:
        assert done.left_whole is None
        assert loaded(path, [336] * len(containers)) == [container(entry("sm_80"))] * 120
    else:
        assert re.match(message, done.left_whole or "")
        assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".cut")] == []


def test_a_library_without_room_for_its_segments_is_left_whole(tmp_path: Path) -> None:
    data = container(entry("sm_50", SMALLEST_GAP + 4096), entry("sm_80"))
    path = fat_binaries.library(tmp_path, [data] * 700)
    done = device_library.cut(path, GPUS)
    assert done
    assert done.left_whole == "no room for the table of program headers"


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    plain = fat_binaries.library(tmp_path, [])
    before = plain.read_bytes()
    (tmp_path / "empty.so").touch()
    (tmp_path / "text.so").write_text("INPUT(libx.so)")
    assert [device_library.cut(p, GPUS) for p in sorted(tmp_path.glob("*.so"))] == [None] * 3
    assert plain.read_bytes() == before
    (tmp_path / "short.so").write_bytes(before[:100])
    done = device_library.cut(tmp_path / "short.so", GPUS)
    assert done
    assert done.left_whole


@pytest.mark.parametrize("place", ["code", "data", "header"])
def test_the_proof_notices_a_difference(tmp_path: Path, place: str) -> None:
    path = fat_binaries.library(tmp_path, CONTAINERS)
    whole = path.read_bytes()
    device_library.cut(path, GPUS)
    cut = bytearray(path.read_bytes())
    elf = ElfFile.parse(bytes(cut))
    [text], fatbins = elf.named(".text"), elf.named(".nv_fatbin")
    at = {
        "code": fatbins[0].offset + 16 + 64 + 100, "data": text.offset + 3,
        "header": fatbins[3].offset + 16 + 28,
    }[place]  # fmt: skip
    cut[at] ^= 1
    old = ElfFile.parse(whole)
    containers = device_library.containers(old)
    with pytest.raises(proof.ProofError, match=r"other code|memory at"):
        proof.prove(old, ElfFile.parse(bytes(cut)), containers, GPUS)
    cut[at] ^= 1
    proof.prove(old, ElfFile.parse(bytes(cut)), containers, GPUS)
