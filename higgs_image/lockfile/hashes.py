"""The files that versions.lock covers, compared with the hashes that it records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from higgs_image.errors import LockError
from higgs_image.files import files_below, sha256_bytes, sha256_file, tree_sha256
from higgs_image.lockfile.edit import write
from higgs_image.lockfile.lines import line_of
from higgs_image.lockfile.schema import Lock, PythonPin, VariantPin

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
    return sha256_bytes("".join(f"{x}\n" for x in _asked_for(path)).encode())


def _asked_for(path: Path) -> list[str]:
    """Return the lines of a requirements file, and of those that it includes with `-r`."""
    found: list[str] = []
    for text in path.read_text().splitlines():
        line = text.partition(" #")[0].rstrip()
        if line.startswith("-r "):
            found += _asked_for(path.parent / line[3:].strip())
        elif line and line[0] != "#":
            found.append(line)
    return found


def differences(lock: Lock, root: Path) -> list[Difference]:
    """Compare the lock with the files that it covers.

    Args:
        lock: the lock.
        root: the project's folder, that contains the recipe.
    """
    actual = _covered(lock, root)
    locked = {
        f"{table}.{name}_sha256": str(getattr(pin, f"{name}_sha256"))
        for table, name, pin in _requirements(lock)
    } | {"recipe.sha256": lock.recipe.sha256}
    locked |= {
        f"{_PATCH}{x}": sha for x, sha in (lock.patches.sha256 if lock.patches else {}).items()
    }
    return [
        Difference(key, locked.get(key, _NONE), actual.get(key, _NONE))
        for key in locked | actual
        if locked.get(key) != actual.get(key)
    ]


def _requirements(lock: Lock) -> list[tuple[str, str, PythonPin | VariantPin]]:
    """Return each requirements file that the lock covers: table, key, and the pin that has it."""
    variants = [(f"variant[{i}]", pin) for i, pin in enumerate(lock.variants)]
    return [
        *(
            ("python", name, lock.python)
            for name in ("input", "requirements", "build", "installer")
        ),
        *((table, name, pin) for table, pin in variants for name in ("input", "requirements")),
    ]


def _covered(lock: Lock, root: Path) -> dict[str, str]:
    recipe = [root / name for name in lock.recipe.paths]
    files = {
        f"{table}.{name}": lock.file(str(getattr(pin, name)))
        for table, name, pin in _requirements(lock)
    }
    for key, path in [*files.items(), *(("recipe.paths", path) for path in recipe)]:
        if not path.exists():
            raise LockError(
                f"{lock.path}:{line_of(lock.path.read_text(), key)}: {path} does not exist",
                "restore it from git, or correct the path",
            )
    hashes = {
        f"{key}_sha256": (input_sha256 if key.endswith(".input") else sha256_file)(path)
        for key, path in files.items()
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
            "undo the change, or take it into the lock with: ./inv lock",
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
