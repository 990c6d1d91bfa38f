"""Strict reading of versions.lock: what is not valid is refused with its line and a remedy."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from higgs_image.errors import LockError
from higgs_image.files import sha256_bytes
from higgs_image.lockfile.lines import line_of
from higgs_image.lockfile.schema import SCHEMA, Lock, LockContent, WheelPin
from higgs_image.lockfile.values import REMEDIES


def load(path: Path, variant: str = "") -> Lock:
    """Read and check versions.lock.

    Args:
        path: the file.
        variant: which image is built from it; empty for the default one.

    Raises:
        UsageError: there is no such variant.
        LockError: the file is missing, is not TOML, or breaks a rule; the message has file and
            line, the hint the remedy.
    """
    try:
        return parse(path, path.read_bytes()).for_variant(variant)
    except FileNotFoundError:
        raise LockError(
            f"{path} does not exist", "restore it from git: every stage starts from it"
        ) from None
    except OSError as error:
        raise LockError(f"{path} cannot be read: {error}", "restore it from git") from None


def parse(path: Path, data: bytes) -> Lock:
    """Check the content of a versions.lock that is, or will be, at `path`.

    Raises:
        LockError: see `load`.
    """
    try:
        text = data.decode()
        raw = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LockError(f"{path}:{line}: this is not UTF-8", "restore it from git") from None
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", where)
        line = int(found[1]) if found else text.rstrip("\n").count("\n") + 1
        raise LockError(
            f"{path}:{line}: {what}", "correct that line, or restore the file from git"
        ) from None
    if isinstance(raw.get("schema"), int) and raw["schema"] != SCHEMA:
        raise LockError(
            f"{path}:{line_of(text, 'schema')}: schema {raw['schema']} is not {SCHEMA}",
            "use the pipeline's version that wrote this file",
        )
    try:
        file = msgspec.convert(raw, LockContent)
    except msgspec.ValidationError as error:
        raise _explain(path, text, raw, str(error)) from None
    lock = Lock(
        **{field: getattr(file, field) for field in LockContent.__struct_fields__},
        path=path,
        sha256=sha256_bytes(data),
    )
    _check_rules(lock, text)
    return lock


def _check_rules(lock: Lock, text: str) -> None:
    """Rules that a type cannot express."""

    def refuse(key: str, message: str, hint: str) -> LockError:
        return LockError(f"{lock.path}:{line_of(text, key)}: {message}", hint)

    if lock.fork.date.tzinfo is None:
        raise refuse("fork.date", f"{lock.fork.date} has no time zone", "append Z or an offset")
    if not lock.vllm.trees:
        raise refuse(
            "vllm.trees",
            "no compiled part is named",
            "name at least csrc, cmake and CMakeLists.txt with their git ids",
        )
    wheels = {f"variant[{i}].kernels.filename": x.kernels for i, x in enumerate(lock.variants)}
    for key, wheel in {"wheel.filename": lock.wheel, **wheels}.items():
        if not _agrees(wheel):
            raise refuse(
                key,
                f"{wheel.filename} is not a wheel of {wheel.name} {wheel.version}",
                "name, version and file name must agree",
            )
    for key, noun, values in (
        ("variant[{}].name", "variant", [x.name for x in lock.variants]),
        ("weights[{}].role", "role", [x.role for x in lock.weights]),
    ):
        for index, value in enumerate(values):
            if value in values[:index]:
                raise refuse(
                    key.format(index),
                    f"the {noun} {value} is already used",
                    f"name each {noun} once",
                )
    for index, entry in enumerate(lock.weights):
        if (entry.revision is None) == (entry.unpinned is None):
            raise refuse(
                f"weights[{index}].repo",
                f"{entry.repo} needs exactly one of revision and unpinned",
                "pin it with revision, or say in unpinned why that is not possible yet",
            )


def _agrees(wheel: WheelPin) -> bool:
    try:
        name, version, *_ = parse_wheel_filename(wheel.filename)
    except InvalidWheelFilename:
        return False
    return (name, str(version)) == (canonicalize_name(wheel.name), wheel.version)


def _explain(path: Path, text: str, raw: dict[str, Any], reason: str) -> LockError:
    """Turn msgspec's `reason - at $.a.b` into file, line and remedy."""
    message, _, where = reason.partition(" - at `$.")
    where = where.rstrip("`")
    key = re.sub(r"\[\.\.\.\]", "", where)
    if unknown := re.search(r"unknown field `(.+)`", message):
        table = re.sub(r"^\$", "", where)
        key = f"{table}.{unknown[1]}" if table else unknown[1]
        return LockError(
            f"{path}:{line_of(text, key)}: unknown key {unknown[1]}",
            "remove it: a key that nothing reads is a typing error",
        )
    if missing := re.search(r"missing required field `(.+)`", message):
        name = f"{where}.{missing[1]}" if where else missing[1]
        return LockError(
            f"{path}:{line_of(text, where)}: {name} is missing", f"add {missing[1]} = ..."
        )
    pattern = next((x for x in REMEDIES if f"matching regex {x!r}" in message), "")
    value: Any = raw
    for step in re.findall(r"[^.\[\]]+", key):
        value = value[int(step)] if isinstance(value, list) else value[step]
    if isinstance(value, dict) and where.endswith("[...]"):  # msgspec does not say which of them
        bad = [k for k, v in value.items() if not isinstance(v, str) or not re.match(pattern, v)]
        key = where = f"{key}.{bad[0]}"
        value = value[bad[0]]
    shown = f" is {value!r}" if isinstance(value, str | int | float) else ""
    shown = re.sub(r"//[^/\s]*@", "//***@", shown)  # a password may stand there
    return LockError(
        f"{path}:{line_of(text, key)}: {where}{shown}",
        REMEDIES.get(pattern) or f"correct it: {message[0].lower()}{message[1:]}",
    )
