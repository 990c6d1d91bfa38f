"""Runs inside the image build: one step each, leaving a layer that depends on its inputs alone.

Used by templates/Dockerfile.j2 with the base image's own python3; standard library only. After a
step nothing of a package manager's caches and logs is left, and no file carries the time of the
build, so that two builds of one lock give the same layers.
"""

from __future__ import annotations

import argparse
import compileall
import filecmp
import multiprocessing
import os
import py_compile
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import stub
from device_code.cut import cut_all

# Written by package managers and different at every run.
LEFTOVERS = (
    "var/cache/apt/*", "var/cache/debconf/*-old", "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/*", "var/lib/dpkg/*-old", "var/log/*.log", "var/log/apt", "tmp/*",
    "root/.cache",
)  # fmt: skip


COMMANDS = Path("/usr/local/bin")
"""Where a layer's links are."""

BY_CONTENT = py_compile.PycInvalidationMode.CHECKED_HASH


def epoch() -> int:
    """Return SOURCE_DATE_EPOCH: the commit's date in seconds since 1970."""
    return int(os.environ["SOURCE_DATE_EPOCH"])


def walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield `root` and everything below it on the same file system (mounts are not entered)."""
    found = root.lstat()
    yield str(root), found
    device, stack = found.st_dev, [str(root)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if status.st_dev != device:
                    continue
                yield entry.path, status
                if stat.S_ISDIR(status.st_mode):
                    stack.append(entry.path)


def finish(root: Path, since: float) -> None:
    """Remove leftovers and give everything that the step wrote the commit's date.

    Files that a package brought with a date of its own keep it: bytecode refers to it.

    Args:
        root: the image's root folder.
        since: when the step began, in seconds since 1970.
    """
    device = root.lstat().st_dev
    for pattern in LEFTOVERS:
        for path in root.glob(pattern):
            if path.lstat().st_dev != device or os.path.ismount(path):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    when = epoch()
    for name, status in walk(root):
        if status.st_mtime >= since:
            os.utime(name, (when, when), follow_symlinks=False)


def lines(path: Path) -> list[str]:
    """Return a file's lines without blanks; an absent file has none."""
    if not path.exists():
        return []
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def install(layer: Path, uv: Path, requirements: Path, *options: str | Path) -> None:
    """Install locked requirements; a layer may bring wheels for them."""
    command = [
        uv, "pip", "install", "--python", sys.executable, "--no-deps", "--require-hashes",
        "--no-cache", "--link-mode", "hardlink", "--requirement", requirements,
        "--build-constraints", Path(__file__).with_name("constraints.txt"), *options,
    ]  # fmt: skip
    if (layer / "wheels").is_dir():
        command += ["--find-links", layer / "wheels"]
    subprocess.run(command, check=True)


def packages(layer: Path, site: Path, uv: Path) -> None:
    """Install a layer's locked packages; remove, stub and strip what its lists name.

    Args:
        layer: folder with requirements.txt, and optionally remove.txt, stub.txt, strip.txt,
            links.txt (patterns relative to `site`; links as `NAME PATTERN`), gpus.txt, kernels/ and
            wheels/.
        site: the environment's site-packages.
        uv: the installer.
    """
    install(layer, uv, layer / "requirements.txt")
    for note in site.glob("*.dist-info/uv_cache.json"):  # the date of a wheel from a local folder
        record = note.with_name("RECORD")
        kept = [x for x in record.read_text().splitlines(True) if f"/{note.name}," not in x]
        record.write_text("".join(kept))
        note.unlink()
    Path(sys.prefix, ".lock").unlink(missing_ok=True)  # the installer's own
    if kernels := lines(layer / "kernels" / "files.txt"):
        take_kernels(layer, site, uv, kernels)
    for pattern in lines(layer / "remove.txt"):
        for path in matching(site, pattern):
            remove(path)
    for pattern in lines(layer / "stub.txt"):
        for path in matching(site, pattern):
            size, functions = path.stat().st_size, stub.replace(path)
            print(f"stub: {path.name}, {functions} functions, instead of {size / 1e6:.1f} MB")
    strip([path for pattern in lines(layer / "strip.txt") for path in matching(site, pattern)])
    if gpus := lines(layer / "gpus.txt"):
        cut_device_code(site, gpus)
    for line in lines(layer / "links.txt"):
        name, pattern = line.split()
        (COMMANDS / name).symlink_to(matching(site, pattern)[0])


def move_new(folder: Path, target: Path, before: set[str]) -> None:
    """Move everything below a folder that was not there before to the same place below another.

    Args:
        folder: with an absolute path.
        target: stands for the root folder.
        before: paths of what was there before.
    """
    for path in folder.iterdir():
        if str(path) not in before:
            goal = target / path.relative_to("/")
            goal.parent.mkdir(parents=True, exist_ok=True)
            path.rename(goal)
        elif path.is_dir() and not path.is_symlink():
            move_new(path, target, before)


def take_kernels(layer: Path, site: Path, uv: Path, patterns: list[str]) -> None:
    """Let files and folders come from the wheel of other kernels, and from nowhere else."""
    with tempfile.TemporaryDirectory(dir=site) as folder:
        other = Path(folder)
        install(layer, uv, layer / "kernels" / "requirements.txt", "--target", other)
        for pattern in patterns:
            for path in site.glob(pattern):
                remove(path)
            for path in matching(other, pattern):
                goal = site / path.relative_to(other)
                goal.parent.mkdir(parents=True, exist_ok=True)
                path.rename(goal)
                print(f"kernels: {path.relative_to(other)}")


def remove(path: Path) -> None:
    """Remove a file or folder, which may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def strip(libraries: list[Path]) -> None:
    """Remove the symbols that nothing links, from as many libraries at once as there are CPUs."""
    commands = [["strip", "--strip-unneeded", path] for path in libraries]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(partial(subprocess.run, check=True), commands))


def cut_device_code(site: Path, gpus: list[str]) -> None:
    """Leave out of all libraries the code that none of the GPUs is given, and say so."""
    report = cut_all(site, gpus)
    for name, (before, after) in report["cut"].items():
        print(f"device code: {name} {before / 1e6:.1f} -> {after / 1e6:.1f} MB")
    for name, reason in report["left_whole"].items():
        print(f"device code: {name} is left whole: {reason}")


def matching(site: Path, pattern: str) -> list[Path]:
    """Return what a pattern names below `site`.

    Raises:
        SystemExit: nothing matches: the list is out of date, which must not go unnoticed.
    """
    found = sorted(site.glob(pattern))
    if not found:
        sys.exit(f"step.py: {pattern} matches nothing below {site}: correct docker/layers.toml")
    return found


def bytecode(folder: Path) -> None:
    """Compile all modules below a folder, tests apart: the server is imported in half the time.

    Python compares such bytecode with its source's content, not with its date: it is the same in
    every build, and never mistaken for a changed or overlaid file. What cannot be compiled,
    such as a template for another Python, is left out.
    """
    files = [path for path in sorted(folder.rglob("*.py")) if not re.search(r"/tests?/", str(path))]
    compile_file = partial(compileall.compile_file, quiet=2, invalidation_mode=BY_CONTENT)
    # compile_dir's own workers may wait for each other forever: python/cpython#105829.
    with multiprocessing.Pool() as pool:
        pool.map(compile_file, files)


def overlay(source: Path, target: Path) -> None:
    """Copy what is new or differs below `source` to the same place below `target`.

    Equal files are left alone, so that the layer holds the difference and nothing else, and the
    bytecode of the modules among it.
    """
    copied = same = 0
    for path in sorted(source.rglob("*")):
        goal = target / path.relative_to(source)
        if path.is_dir():
            goal.mkdir(exist_ok=True)
        elif goal.is_file() and filecmp.cmp(path, goal, shallow=False):
            same += 1
        else:
            goal.unlink(missing_ok=True)  # never write through a link
            shutil.copyfile(path, goal)
            goal.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
            if goal.suffix == ".py":
                py_compile.compile(str(goal), doraise=True, invalidation_mode=BY_CONTENT)
            copied += 1
    print(f"overlay: {copied} files new or changed, {same} equal to the wheel's")


def check_operators() -> None:
    """End the build if the server's Python does not fit the libraries.

    Raises:
        SystemExit: it does not.
    """
    done = subprocess.run([sys.executable, Path(__file__).with_name("operators.py")])
    if done.returncode != 0:
        sys.exit(done.returncode)


def main(arguments: list[str]) -> None:
    """Run one step: finish LAYER | packages LAYER | bytecode LAYER | overlay LAYER."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=["finish", "packages", "bytecode", "overlay"])
    parser.add_argument("layer", help="name of the layer, which the image's history shows")
    parser.add_argument("--since", type=float, default=float(int(time.time())))
    options = parser.parse_args(arguments)
    site = Path(sys.prefix, "lib", f"python3.{sys.version_info.minor}", "site-packages")
    root = Path("/")
    if options.step == "packages":
        root = Path("/packages", options.layer)
        folders = (Path(sys.prefix), COMMANDS)
        before = {name for folder in folders for name, _ in walk(folder)}
        packages(Path("/layer"), site, Path("/tools/bin/uv"))
        for folder in folders:
            move_new(folder, root, before)
    elif options.step == "bytecode":
        bytecode(site)
    elif options.step == "overlay":
        overlay(Path("/layer"), Path("/"))
        if options.layer == "code":  # the last one: the server's Python is complete
            check_operators()
    finish(root, options.since)


if __name__ == "__main__":
    main(sys.argv[1:])
