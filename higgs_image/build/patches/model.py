"""A patch as its module describes it.

A patch is a module of docker/patches/higgs_patches/patches with a literal named PATCH: what it
fixes, why, and which functions of the fork it replaces or wraps, each with the hash of the source
that it was written for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from higgs_image.errors import PatchError, UsageError
from higgs_image.files import sha256_bytes
from higgs_image.lockfile import Lock

PACKAGE = "higgs_patches"
"""Name of the package in the image."""

_Line = Annotated[str, msgspec.Meta(pattern=r"^\S[^\n]*\S\Z")]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place of the fork that a patch changes.

    Attributes:
        file: path in the fork or the submodule.
        name: qualified name of a function, method, class or imported name in that file.
        how: `replace` swaps it for an import of ours; `wrap` decorates it with ours, innermost.
        with_: our function or class, at the top level of the patch's module.
        sha256: hash of the source that the patch was written for, see `codemod.find`.
        fixed: regular expression that matches a changed source in which the defect is fixed.
    """

    file: Annotated[str, msgspec.Meta(pattern=r"^(vllm|boson_multimodal)/[\w/]+\.py\Z")]
    name: Annotated[str, msgspec.Meta(pattern=r"^\w+(\.\w+)?\Z")]
    how: Literal["replace", "wrap"]
    with_: Annotated[str, msgspec.Meta(pattern=r"^\w+\Z")] = msgspec.field(name="with")
    sha256: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
    fixed: str | None = None


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a module's PATCH says.

    Attributes:
        title: what it fixes, in one line.
        issues: where the defect is reported.
        why: cause and effect.
        obsolete_when: how to see that it is fixed upstream.
        targets: what it changes.
    """

    title: _Line
    issues: list[Annotated[str, msgspec.Meta(pattern=r"^https://\S+\Z")]]
    why: Annotated[str, msgspec.Meta(min_length=1)]
    obsolete_when: Annotated[str, msgspec.Meta(min_length=1)]
    targets: Annotated[list[Target], msgspec.Meta(min_length=1)]


class Patch(_Header, frozen=True):
    """A patch as its module describes it.

    Attributes:
        name: the module's name, by which it is left out and recorded.
        path: the module.
        sha256: hash of the module, which versions.lock records.
    """

    name: str
    path: Path
    sha256: str


def modules(folder: Path) -> list[Path]:
    """Return the modules of a package that are patches, in order of their names."""
    return sorted(x for x in (folder / "patches").glob("*.py") if x.name != "__init__.py")


def load(folder: Path) -> list[Patch]:
    """Read every patch of a package, in order of their names. Imports none of them.

    Raises:
        PatchError: a header is malformed, or two patches claim the same function.
    """
    found = [_load(path) for path in modules(folder)]
    owner: dict[tuple[str, str], str] = {}
    for patch in found:
        for target in patch.targets:
            place = (target.file, target.name)
            if target.how == "replace" and place in owner:
                raise PatchError(
                    f"{patch.path}: {target.file} {target.name} is replaced by {owner[place]}, too",
                    "let one patch replace it, or wrap it",
                )
            if target.how == "replace":
                owner[place] = patch.name
    return found


def load_locked(lock: Lock, without: Iterable[str] = ()) -> list[Patch]:
    """Read every patch of the package that the lock names; none without such a package.

    Args:
        lock: names the package.
        without: names of patches that are left out; they have to exist.

    Raises:
        PatchError: see `load`.
        UsageError: a name in `without` is unknown.
    """
    found = load(lock.file(lock.patches.folder)) if lock.patches else []
    names = [patch.name for patch in found]
    for name in without:
        if name not in names:
            raise UsageError(f"unknown patch: {name!r}", f"known: {', '.join(names) or 'none'}")
    return found


def _load(path: Path) -> Patch:
    data = path.read_bytes()
    try:
        tree = ast.parse(data, path)
    except SyntaxError as error:
        raise PatchError(f"{path}:{error.lineno}: {error.msg}", "correct the patch") from None
    literal = None
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for goal in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(goal, ast.Name):
                    names.add(goal.id)
                    if goal.id == "PATCH":
                        literal = node.value
    if literal is None:
        raise PatchError(
            f"{path}: PATCH is missing",
            "define it, or move the module to lib/ if it is a helper",
        )
    try:
        header = msgspec.convert(ast.literal_eval(literal), _Header)
    except (ValueError, msgspec.ValidationError) as error:
        raise PatchError(
            f"{path}:{literal.lineno}: PATCH: {error}",
            "write it as a literal with title, issues, why, obsolete_when and targets",
        ) from None
    for target in header.targets:
        if target.with_ not in names:
            raise PatchError(
                f"{path}: {target.name} is to be changed with {target.with_}, which is not defined",
                "name a function or class at the top level of this module",
            )
    said = msgspec.structs.asdict(header)
    return Patch(**said, name=path.stem, path=path, sha256=sha256_bytes(data))
