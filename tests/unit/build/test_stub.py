"""Stubs of shared libraries, made by docker/build/stub.py."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import stub
from stub import StubError, Symbol

pytestmark = pytest.mark.usefixtures("gcc")

SOURCE = """
int fftPlan(int n) { return 0; }
int fftExec(void) { return 0; }
const char *fftGetErrorString(int status) { return "it works"; }
"""
VERSIONS = "libfft.so.1 { global: fftPlan; fftExec; local: *; };"
VERSIONS += "libfft.so.2 { global: fftGetErrorString; };"
PROGRAM = """
#include <stdio.h>
int fftPlan(int); int fftExec(void); const char *fftGetErrorString(int);
int main(void) {
    int plan = fftPlan(8), exec = fftExec();
    printf("%d %d %s\\n", plan, exec, fftGetErrorString(plan));
}
"""


def gcc(folder: Path, source: str, out: str, *flags: str) -> Path:
    (folder / "source.c").write_text(source)
    subprocess.run(["gcc", "-w", "-o", folder / out, folder / "source.c", *flags], check=True)
    return folder / out


def library(folder: Path, source: str = SOURCE, versions: str = VERSIONS) -> Path:
    flags = ["-shared", "-fPIC", "-Wl,-soname,libfft.so.1"]
    if versions:
        (folder / "versions").write_text(versions)
        flags.append(f"-Wl,--version-script,{folder / 'versions'}")
    return gcc(folder, source, "libfft.so.1", *flags)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_program_gets_an_error_that_names_the_function(tmp_path: Path) -> None:
    path = library(tmp_path)
    program = gcc(tmp_path, PROGRAM, "program", str(path), f"-Wl,-rpath,{tmp_path}", "-Wl,-z,now")
    assert subprocess.run([program], capture_output=True, text=True).stdout == "0 0 it works\n"
    before = names(tmp_path)
    path.chmod(0o755)
    assert stub.replace(path) == 3
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.stdout == f"{stub.STATUS} {stub.STATUS} not in this image\n"
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        f"error: {name} of libfft.so.1 was called, which is a stub in this image"
        for name in ("fftPlan", "fftExec")
    ]
    assert "hint: " in done.stderr
    assert names(tmp_path) == before
    assert path.stat().st_mode & 0o777 == 0o755


def test_symbols_keep_their_versions(tmp_path: Path) -> None:
    path = library(tmp_path)
    stub.replace(path)
    assert stub.symbols(path) == [
        Symbol("fftExec", "libfft.so.1"),
        Symbol("fftGetErrorString", "libfft.so.2"),
        Symbol("fftPlan", "libfft.so.1"),
    ]
    assert stub.soname(path) == "libfft.so.1"


def test_a_library_without_versions(tmp_path: Path) -> None:
    path = library(tmp_path, versions="")
    stub.replace(path)
    assert {symbol.version for symbol in stub.symbols(path)} == {""}


def test_names_of_cpp_are_left_out(tmp_path: Path) -> None:
    """A library that brings its own C++ library exports that, too: functions, classes, data."""
    cpp = "int _ZSt9terminatev(void) { return 0; } int _ZTVSt9exception; int _edata;"
    path = library(tmp_path, SOURCE + cpp, versions="")
    assert stub.replace(path) == 3
    assert {symbol.name for symbol in stub.symbols(path)} == {
        "fftExec", "fftGetErrorString", "fftPlan",
    }  # fmt: skip


def test_the_same_library_gives_the_same_stub(tmp_path: Path) -> None:
    stubs = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        path = library(folder)
        stub.replace(path)
        stubs.append(path.read_bytes())
        stub.replace(path)
        stubs.append(path.read_bytes())
    assert len(set(stubs)) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("int fftVersion = 3;", "exports fftVersion@@libfft.so.1, which is not just a function"),
        (
            '__asm__(".symver old, fftPlan@libfft.so.1"); int old(void) { return 0; }',
            "exports fftPlan@libfft.so.1, which is not just a function",
        ),
    ],
)
def test_a_library_that_exports_something_else_is_refused(
    tmp_path: Path, source: str, message: str
) -> None:
    path = library(tmp_path, source, "libfft.so.1 { global: fftPlan; fftVersion; local: *; };")
    content, before = path.read_bytes(), names(tmp_path)
    with pytest.raises(StubError, match=message):
        stub.replace(path)
    assert path.read_bytes() == content
    assert names(tmp_path) == before


def test_a_library_without_soname_is_refused(tmp_path: Path) -> None:
    path = gcc(tmp_path, SOURCE, "libfft.so.1", "-shared", "-fPIC")
    with pytest.raises(StubError, match=r"libfft\.so\.1 has no SONAME"):
        stub.replace(path)
