"""Replace a shared library by a stub: the same symbols, and functions that only report an error.

For libraries that PyTorch must link and this server never calls. A function of a stub prints its
name on stderr and returns a status that every such library defines as a failure. The C compiler is
the image's own, which Triton needs; standard library only.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

STATUS = 7
"""CUSPARSE_STATUS_INTERNAL_ERROR, CUSOLVER_STATUS_INTERNAL_ERROR, CUFFT_SETUP_FAILED."""

_TEXT = re.compile(r"Get(Error|Status)(String|Name)$")
"""Functions that return the text of a status instead of one."""

_INTERNAL = re.compile(r"_Z|_init$|_fini$|__bss_start$|_edata$|_end$")
"""C++ names, and what the linker defines in each library."""

_SOURCE = """\
#include <stdio.h>
static int refuse(const char *name) {{
    dprintf(2, "error: %s of {soname} was called, which is a stub in this image\\n"
               "hint: please report this; without its line in docker/layers.toml the image has "
               "the library\\n", name);
    return {status};
}}
"""


class StubError(Exception):
    """The library cannot be replaced by a stub."""


class Symbol(NamedTuple):
    """An exported function.

    Attributes:
        name: of the function.
        version: of the symbol; empty if the library has none.
    """

    name: str
    version: str


def replace(path: Path) -> int:
    """Replace a library by its stub; the same library gives the same stub.

    Args:
        path: the library.

    Returns:
        The number of functions.

    Raises:
        StubError: the library exports more than functions, or the stub's symbols would differ.
    """
    name, wanted = soname(path), symbols(path)
    stub = path.with_name(f".{path.name}.stub")
    try:
        make(stub, name, wanted)
        if (soname(stub), symbols(stub)) != (name, wanted):
            raise StubError(f"the stub of {path.name} has other symbols than the library")
        stub.chmod(path.stat().st_mode & 0o7777)
        stub.replace(path)
    finally:
        stub.unlink(missing_ok=True)
    return len(wanted)


def make(path: Path, name: str, functions: list[Symbol]) -> None:
    """Compile a library of functions that report an error.

    Args:
        path: of the library; files beside it are written and removed.
        name: by which other libraries ask for it.
        functions: that it has.
    """
    source, script = (path.with_name(f"{path.name}.{x}") for x in ("c", "map"))
    try:
        source.write_text(_source(name, functions))
        script.write_text(_script(functions))
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-w", "-fno-builtin", "-nostartfiles",
             f"-Wl,-soname,{name}", f"-Wl,--version-script,{script}",
             "-Wl,--build-id=none", "-Wl,-s", "-o", path, source],
            check=True,
        )  # fmt: skip
    finally:
        for file in (source, script):
            file.unlink(missing_ok=True)


def symbols(path: Path) -> list[Symbol]:
    """Return the functions that a library exports, by name.

    C++ names are left out: they are those of the C++ library, where that is linked statically, and
    of internal classes. NVIDIA's interfaces are in C.

    Raises:
        StubError: it exports data, or a symbol that is not the default of its name.
    """
    found: set[Symbol] = set()
    for line in _output("nm", "-D", "--defined-only", path):
        kind, symbol = line.split()[-2:]  # kind A: the name of a version
        name, at, version = symbol.partition("@@")
        if kind == "A" or _INTERNAL.match(name):
            continue
        if kind not in "TW" or "@" in (name if at else symbol):
            raise StubError(f"{path.name} exports {symbol}, which is not just a function")
        found.add(Symbol(name, version))
    return sorted(found)


def soname(path: Path) -> str:
    """Return the name by which other libraries ask for this one.

    Raises:
        StubError: it has none.
    """
    for line in _output("readelf", "--dynamic", "--wide", path):
        if match := re.search(r"\(SONAME\)\s+Library soname: \[(.+)\]", line):
            return match[1]
    raise StubError(f"{path.name} has no SONAME")


def _output(*command: str | Path) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def _source(name: str, functions: list[Symbol]) -> str:
    lines = [_SOURCE.format(soname=name, status=STATUS)]
    for function, _ in functions:
        if _TEXT.search(function):
            lines.append(f'const char *{function}(void) {{ return "not in this image"; }}')
        else:
            lines.append(f'int {function}(void) {{ return refuse("{function}"); }}')
    return "\n".join(lines) + "\n"


def _script(functions: list[Symbol]) -> str:
    """Return the linker's version script."""
    nodes: dict[str, list[str]] = {}
    for name, version in functions:
        nodes.setdefault(version, []).append(f"{name};")
    return "".join(
        f"{version} {{ global: {' '.join(names)} local: *; }};\n"
        for version, names in nodes.items()
    )
