"""versions.lock: every pin of the image, what was asked for beside what was locked.

The file is TOML, read strictly: an unknown or repeated key, a short hash or a digest without its
algorithm is refused with the line and the remedy. It also records hashes of the files that decide
what is in the image (the requirements and the recipe), so that its own hash names the content.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from higgs_image.errors import LockError
from higgs_image.files import sha256_file, tree_sha256
from higgs_image.lockfile.edit import _NONE, _PATCH, Difference, _line_of, _record_patch, _replace
from higgs_image.lockfile.load import load
from higgs_image.lockfile.schema import Lock


def differences(lock: Lock, root: Path) -> list[Difference]:
    """Compare the lock with the files that it covers.

    Args:
        lock: the lock.
        root: the project's folder, below which the recipe lies.
    """
    actual = _covered(lock, root)
    locked = {
        "python.input_sha256": lock.python.input_sha256,
        "python.requirements_sha256": lock.python.requirements_sha256,
        "python.build_sha256": lock.python.build_sha256,
        "python.installer_sha256": lock.python.installer_sha256,
        "recipe.sha256": lock.recipe.sha256,
    } | {f"{_PATCH}{name}": sha256 for name, sha256 in _patches(lock).items()}
    return [
        Difference(key, locked.get(key, _NONE), actual.get(key, _NONE))
        for key in [*locked, *(key for key in actual if key not in locked)]
        if locked.get(key) != actual.get(key)
    ]


def _patches(lock: Lock) -> dict[str, str]:
    return lock.patches.sha256 if lock.patches else {}


def _covered(lock: Lock, root: Path) -> dict[str, str]:
    paths = [root / name for name in lock.recipe.paths]
    files = {
        "python.input": lock.python.input,
        "python.requirements": lock.python.requirements,
        "python.build": lock.python.build,
        "python.installer": lock.python.installer,
    }
    for key, path in [
        *((k, lock.file(v)) for k, v in files.items()),
        *(("recipe.paths", p) for p in paths),
    ]:
        if not path.exists():
            line = _line_of(lock.path.read_text(), key)
            raise LockError(
                f"{lock.path}:{line}: {path} does not exist",
                "restore it from git, or correct the path",
            )
    hashes = {f"{key}_sha256": sha256_file(lock.file(name)) for key, name in files.items()}
    if lock.patches:
        modules = lock.file(lock.patches.folder) / "patches"
        hashes |= {
            f"{_PATCH}{path.stem}": sha256_file(path)
            for path in sorted(modules.glob("*.py"))
            if path.name != "__init__.py"
        }
    return hashes | {"recipe.sha256": tree_sha256(paths, root)}


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
    """Write the hashes of the covered files into versions.lock; nothing else is touched.

    The date, which is part of the tag, becomes today's when something changed.

    Returns:
        What was changed.
    """
    found = differences(lock, root)
    if found:
        text = lock.path.read_bytes().decode()
        for difference in found:
            if difference.key.startswith(_PATCH):
                text = _record_patch(lock.path, text, difference)
            else:
                text = _replace(lock.path, text, difference.key, f'"{difference.actual}"')
        today = datetime.datetime.now(datetime.UTC).date()
        text = _replace(lock.path, text, "date", today.isoformat())
        beside = lock.path.with_name(lock.path.name + ".new")
        beside.write_bytes(text.encode())
        load(beside)
        beside.replace(lock.path)
    return found
