"""What NVIDIA's own tool finds in libraries of the image is what ours finds, before and after."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_code import library as device_library
from device_code.elf import ElfFile
from device_code.fatbin import Kind

from higgs_image import lockfile, process
from higgs_image.build import layers
from higgs_image.workspace import Workspace

pytestmark = [pytest.mark.fork, pytest.mark.timeout(900)]

CUOBJDUMP = "nvidia-cuda-cuobjdump==13.5.37"
PACKAGES = ("nvidia-curand-cu12", "nvidia-nccl-cu12", "nvidia-cublas-cu12")


@pytest.fixture(scope="module", params=["", "cuda12.8"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory, variant: str) -> Path:
    """The folder into which cuobjdump and the packages are installed, as the image has them."""
    workspace = Workspace.default()
    lock = lockfile.load(workspace.lock_file, variant)
    locked = lockfile.requirements(lock.file(lock.python.requirements).read_text())
    wanted = [CUOBJDUMP, *(locked[name].split()[0] for name in PACKAGES)]
    folder = tmp_path_factory.mktemp("wheels")
    done = process.run(
        ["uv", "pip", "install", "--no-deps", "--no-cache", "--target", str(folder), *wanted]
    )
    if done.code != 0:
        pytest.skip(f"the wheels cannot be fetched: {done.err.strip().splitlines()[-1]}")
    return folder


def listed(wheels: Path, path: Path, folder: Path) -> list[tuple[str, str]]:
    """Return architecture and SHA-256 of each entry that cuobjdump extracts from a file."""
    [tool] = wheels.glob("nvidia/*/bin/cuobjdump")
    tool.chmod(0o755)
    folder.mkdir()
    found: list[tuple[str, str]] = []
    for flag in ("-xelf", "-xptx"):
        subprocess.run([tool, "-all", flag, "all", path], cwd=folder, capture_output=True)
    for file in sorted(folder.iterdir(), key=lambda p: int(p.name.split(".")[-3])):
        _, arch, kind = file.name.rsplit(".", 2)
        name = arch.replace("sm_", "compute_") if kind == "ptx" else arch
        found.append((name, hashlib.sha256(file.read_bytes()).hexdigest()))
    return found


@pytest.mark.parametrize("name", ["curand/lib/libcurand.so.10", "nccl/lib/libnccl.so.2"])
def test_cuobjdump_agrees_before_and_after(
    wheels: Path, variant: str, tmp_path: Path, name: str
) -> None:
    """It reads only the first section of a name, so it is given the containers of all of them."""
    path = wheels / "nvidia" / name
    before = listed(wheels, path, tmp_path / "before")
    assert len(before) > 10
    assert sorted(name for name, _ in before) == sorted(device_library.names(path))
    gpus = layers.load(Workspace.default().layers_file, variant).gpus
    done = device_library.cut(path, [int(gpu.replace(".", "")) for gpu in gpus])
    assert done and done.after < done.before
    elf = ElfFile.parse(path.read_bytes())
    (tmp_path / "after.fatbin").write_bytes(
        b"".join(elf.read(c.offset, c.size) for c in device_library.containers(elf))
    )
    after = listed(wheels, tmp_path / "after.fatbin", tmp_path / "after")
    assert sorted(name for name, _ in after) == sorted(device_library.names(path))
    assert set(after) < set(before)
    useless = re.compile(r"sm_(5|6|7)\d|sm_101|compute_")
    assert {x for x in before if not useless.match(x[0])} <= set(after)


def test_cuobjdump_agrees_on_each_container_of_cublas(
    wheels: Path, variant: str, tmp_path: Path
) -> None:
    """It ends where it takes a GPU's code for invalid, which one entry of NVIDIA's library is."""
    path = wheels / "nvidia/cublas/lib/libcublas.so.12"
    assert sum(differing(wheels, path, tmp_path)) <= 1
    gpus = layers.load(Workspace.default().layers_file, variant).gpus
    assert device_library.cut(path, [int(gpu.replace(".", "")) for gpu in gpus])
    assert sum(differing(wheels, path, tmp_path)) <= 1


def differing(wheels: Path, path: Path, folder: Path) -> Iterator[bool]:
    """Say of each container whether cuobjdump refuses an entry; the other entries agree."""
    [tool] = wheels.glob("nvidia/*/bin/cuobjdump")
    tool.chmod(0o755)
    elf = ElfFile.parse(path.read_bytes())
    file = folder / "one.fatbin"
    for container in device_library.containers(elf):
        file.write_bytes(elf.read(container.offset, container.size))
        done = subprocess.run([tool, "-lelf", "-lptx", file], capture_output=True, text=True)
        found = [line.rsplit(".", 2)[1] for line in done.stdout.splitlines()]
        code = [e.name for e in container.entries if e.kind is Kind.MACHINE_CODE]
        ptx = [e.name.replace("compute", "sm") for e in container.entries if e.kind is Kind.PTX]
        if refused := done.returncode != 0:
            assert "Invalid ELF" in done.stderr
            assert len(found) < len(code) and found == code[: len(found)]
        else:
            assert found == [*code, *ptx]
        yield refused
