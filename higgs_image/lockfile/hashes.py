"""The files that versions.lock covers, compared with the hashes that it records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from higgs_image.errors import LockError
from higgs_image.files import files_below, sha256_bytes, sha256_file, tree_sha256
from higgs_image.lockfile.edit import write
from higgs_image.lockfile.lines import line_of
from higgs_image.lockfile.schema import Lock

_PATCH = "patches.sha256."
_NONE = "none"


class Difference(msgspec.Struct, frozen=True):
    """One place where the lock and the files that it covers differ."""

    key: str
    locked: str
    actual: str


def recipe_files(path: Path) -> list[Path]:
    """Return the files of a recipe path that decide what is in the image.

    Documentation does not: it is neither hashed nor put into the image, so that an edit of it gives
    no new tag.
    """
    files = files_below(path) if path.is_dir() else [path]
    return [file for file in files if file.suffix != ".md"]


def recipe_sha256(paths: Iterable[Path], root: Path) -> str:
    """Return one hash over all files of the recipe.

    Args:
        paths: files and folders.
        root: the project's folder, that contains them.
    """
    return tree_sha256([file for path in paths for file in recipe_files(path)], root)


def input_sha256(path: Path) -> str:
    """Return the hash of what was asked for: comments of a requirements file do not count."""
    lines = (line.partition(" #")[0].rstrip() for line in path.read_text().splitlines())
    return sha256_bytes("".join(f"{x}\n" for x in lines if x and x[0] != "#").encode())


def differences(lock: Lock, root: Path) -> list[Difference]:
    """Compare the lock with the files that it covers.

    Args:
        lock: the lock.
        root: the project's folder, that contains the recipe.
    """
    actual = _covered(lock, root)
    locked = {
        "python.input_sha256": lock.python.input_sha256,
        "python.requirements_sha256": lock.python.requirements_sha256,
        "python.build_sha256": lock.python.build_sha256,
        "python.installer_sha256": lock.python.installer_sha256,
        "recipe.sha256": lock.recipe.sha256,
    } | {f"{_PATCH}{x}": sha for x, sha in (lock.patches.sha256 if lock.patches else {}).items()}
    return [
        Difference(key, locked.get(key, _NONE), actual.get(key, _NONE))
        for key in locked | actual
        if locked.get(key) != actual.get(key)
    ]


def _covered(lock: Lock, root: Path) -> dict[str, str]:
    recipe = [root / name for name in lock.recipe.paths]
    files = {
        name: lock.file(getattr(lock.python, name))
        for name in ("input", "requirements", "build", "installer")
    }
    for key, path in [*((f"python.{name}", path) for name, path in files.items()),
                      *(("recipe.paths", path) for path in recipe)]:  # fmt: skip
        if not path.exists():
            raise LockError(
                f"{lock.path}:{line_of(lock.path.read_text(), key)}: {path} does not exist",
                "restore it from git, or correct the path",
            )
    hashes = {
        f"python.{name}_sha256": (input_sha256 if name == "input" else sha256_file)(path)
        for name, path in files.items()
    }
    if lock.patches:
        modules = lock.file(lock.patches.folder) / "patches"
        hashes |= {
            f"{_PATCH}{path.stem}": sha256_file(path)
            for path in sorted(modules.glob("*.py"))
            if path.name != "__init__.py"
        }
    return hashes | {"recipe.sha256": recipe_sha256(recipe, root)}


def require_consistent(lock: Lock, root: Path) -> None:
    """Refuse a lock that does not match the files that it covers.

    Raises:
        LockError: naming each difference.
    """
    found = differences(lock, root)
    if found:
        raise LockError(
            f"{lock.path} does not match the files it covers: "
            + "; ".join(f"{d.key} is {d.actual[:12]}..., locked {d.locked[:12]}..." for d in found),
            "undo the change, or take it into the lock with: invoke lock",
        )


def refresh(lock: Lock, root: Path) -> list[Difference]:
    """Write the hashes of the covered files, and today's date, into versions.lock.

    Returns:
        What was changed; without a change the file is not written.
    """
    found = differences(lock, root)
    if found:
        write(lock.path, {d.key: None if d.actual == _NONE else d.actual for d in found})
    return found
