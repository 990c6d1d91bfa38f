"""Check that the server's Python fits the libraries that it is laid over.

The fork's Python is that of vLLM 0.8.3, and a variant of the image has the libraries of a later
vLLM. The build ends unless

- the libraries load with the image's PyTorch, every symbol bound;
- what this model's path calls has the signatures of operators.toml;
- each use of an operator, or of a function of the wheel's own Python, fits: it exists, and takes
  so many arguments of these names. operators.toml also names the uses that may not fit.

    python3 operators.py            # check the image that this runs in
    python3 operators.py --print    # print what operators.toml should have for this image

Nothing is computed, and neither GPU nor driver is needed: a stub stands for the driver's library.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import call_sites
import stub
from stub import Symbol

TABLE = Path(__file__).with_name("operators.toml")
DRIVER = "libcuda.so.1"


class OperatorTable(NamedTuple):
    """What is expected of an image.

    Attributes:
        signatures: of operators and functions.
        misfits: callees that may have uses which do not fit, with the reason.
    """

    signatures: dict[str, str]
    misfits: dict[str, str]


def check(site: Path) -> list[str]:
    """Return what differs from the table, a line for each; an image without PyTorch has nothing.

    Args:
        site: the environment's site-packages.
    """
    if not (site / "torch").is_dir():  # of a fake fork
        return []
    cuda, found = callees(site)
    table = load(cuda)
    changed = [
        f"{name}: expected {signature}, found {found.get(name, 'nothing of this name')}"
        for name, signature in table.signatures.items()
        if found.get(name) != signature
    ]
    return changed + call_sites.compare(call_sites.misfits(site, found), table.misfits)


def load(cuda: str, path: Path = TABLE) -> OperatorTable:
    """Read the table for the image whose PyTorch has a version of CUDA.

    Raises:
        SystemExit: there is none for this version.
    """
    table = tomllib.loads(path.read_text())
    own = table["cuda"].get(cuda)
    if own is None:
        sys.exit(f"{path.name} has nothing for CUDA {cuda}: add it (operators.py --print)")
    return OperatorTable(table["signatures"] | own["signatures"], table["misfits"] | own["misfits"])


def callees(site: Path) -> tuple[str, dict[str, str]]:
    """Load the libraries.

    Returns:
        The version of CUDA; operators and functions, with their signatures.

    Raises:
        OSError: a library does not load.
    """
    import torch

    libraries = sorted(site.glob("vllm/**/*.so"))
    before = _schemas(torch)
    with tempfile.TemporaryDirectory() as folder:
        driver = Path(folder, DRIVER)
        stub.make(driver, DRIVER, driver_functions(libraries))
        ctypes.CDLL(str(driver))  # found by its SONAME when a library asks for it
        for library in libraries:
            torch.ops.load_library(str(library))
    after = _schemas(torch)
    registered = {x: after[x] for x in after if x not in before}
    return torch.version.cuda, registered | call_sites.functions(site)


def _schemas(torch: Any) -> dict[str, str]:
    found = {}
    for schema in torch._C._jit_get_all_schemas():
        name, arguments = str(schema).split("(", 1)
        found[name] = re.sub(r"\(\$\d+! -> \)", "!", f"({arguments}")
    return found


def driver_functions(libraries: list[Path]) -> list[Symbol]:
    """Return the functions of the driver that the libraries import."""
    wanted = set()
    for library in libraries:
        done = subprocess.run(
            ["nm", "-D", "--undefined-only", library], check=True, capture_output=True, text=True
        )
        wanted |= {line.split()[-1] for line in done.stdout.splitlines()}
    return [Symbol(name, "") for name in sorted(wanted) if re.match(r"cu[A-Z]\w+$", name)]


def main(arguments: list[str]) -> None:
    """Check this image, or print its table.

    Raises:
        SystemExit: something differs from the table.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--print", action="store_true", dest="show")
    options = parser.parse_args(arguments)
    site = Path(sys.prefix, "lib", f"python3.{sys.version_info.minor}", "site-packages")
    if options.show:
        cuda, found = callees(site)
        table = load(cuda)
        print(f"# CUDA {cuda}")
        print(
            *(f'"{name}" = "{found[name]}"' for name in table.signatures if name in found), sep="\n"
        )
        print(*(f'"{name}" = ""' for name in call_sites.misfits(site, found)), sep="\n")
        return
    if wrong := check(site):
        sys.exit("\n".join(f"operators.py: {line}" for line in wrong))
    print("operators: every signature and use is as docker/build/operators.toml has it")


if __name__ == "__main__":
    main(sys.argv[1:])
