"""Stage `patches`: our own functions in the place of the fork's broken ones.

A patch is a module of docker/patches/higgs_patches with a literal named PATCH: what it mends, why,
and which functions of the fork it replaces or wraps, each with the hash of the source that it was
written for. The package goes into the image as it is; a replaced function becomes an import of
ours, in place, so the fork's text is never copied and every patch is plain Python that can be
tested alone. A target that differs from its hash stops the build: either upstream has mended it
(obsolete) or somebody has to look (changed).
"""

from __future__ import annotations

import ast
import difflib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from higgs_image import codemod
from higgs_image.errors import PatchError, UsageError
from higgs_image.hashing import files_below, sha256_bytes, tree_sha256
from higgs_image.workspace import Workspace, replace_folder

if TYPE_CHECKING:
    from higgs_image.lock import Lock
    from higgs_image.source import Source

log = logging.getLogger(__name__)

PACKAGE = "higgs_patches"
"""Name of the package in the image."""

State = Literal["applies", "obsolete", "changed", "missing", "left out"]
"""What a patch meets in the pinned source. Only `applies` and `left out` let a build go on."""

_Line = Annotated[str, msgspec.Meta(pattern=r"^\S[^\n]*\S\Z")]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place of the fork that a patch changes.

    Attributes:
        file: path in the fork or the submodule.
        name: qualified name of a function, method, class or imported name in that file.
        how: `replace` swaps it for an import of ours; `wrap` decorates it with ours, innermost.
        with_: our function or class, at the top level of the patch's module.
        sha256: hash of the source that the patch was written for, see `codemod.find`.
        fixed: regular expression that finds the defect mended in a changed source.
    """

    file: Annotated[str, msgspec.Meta(pattern=r"^(vllm|boson_multimodal)/[\w/]+\.py\Z")]
    name: Annotated[str, msgspec.Meta(pattern=r"^\w+(\.\w+)?\Z")]
    how: Literal["replace", "wrap"]
    with_: Annotated[str, msgspec.Meta(pattern=r"^\w+\Z")] = msgspec.field(name="with")
    sha256: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
    fixed: str | None = None


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: _Line
    issues: list[Annotated[str, msgspec.Meta(pattern=r"^https://\S+\Z")]]
    why: Annotated[str, msgspec.Meta(min_length=1)]
    obsolete_when: Annotated[str, msgspec.Meta(min_length=1)]
    targets: Annotated[list[Target], msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class Patch:
    """A patch as its module describes it.

    Attributes:
        name: the module's name, by which it is left out and recorded.
        path: the module.
        sha256: hash of the module, which versions.lock records.
        title: what it mends, in one line.
        issues: where that is reported.
        why: cause and effect.
        obsolete_when: how one sees that upstream has mended it.
        targets: what it changes.
    """

    name: str
    path: Path
    sha256: str
    title: str
    issues: list[str]
    why: str
    obsolete_when: str
    targets: list[Target]


@dataclass(frozen=True)
class Finding:
    """What one target of one patch meets in a source.

    Attributes:
        patch: name of the patch.
        target: the place.
        state: see `State`.
        sha256: hash of what stands there now; None if nothing does.
    """

    patch: str
    target: Target
    state: State
    sha256: str | None


def load(folder: Path) -> list[Patch]:
    """Read every patch of a package, in order of their names. Imports none of them.

    Raises:
        PatchError: a header is malformed, or two patches claim the same function.
    """
    found = [patch for path in sorted(folder.glob("*.py")) if (patch := _load(path))]
    owner: dict[tuple[str, str], str] = {}
    for patch in found:
        for target in patch.targets:
            place = (target.file, target.name)
            if target.how == "replace" and place in owner:
                raise PatchError(
                    f"{patch.path}: {target.file} {target.name} is replaced by "
                    f"{owner[place]} already",
                    "let one patch replace it, or wrap it",
                )
            if target.how == "replace":
                owner[place] = patch.name
    return found


def _load(path: Path) -> Patch | None:
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
        return None
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
                f"{path}: {target.name} is to be changed with {target.with_}, which is not there",
                "name a function or class at the top level of this module",
            )
    return Patch(
        name=path.stem,
        path=path,
        sha256=sha256_bytes(data),
        title=header.title,
        issues=header.issues,
        why=header.why,
        obsolete_when=header.obsolete_when,
        targets=header.targets,
    )


def check_names(patches: Iterable[Patch], without: Iterable[str]) -> None:
    """Refuse the name of a patch that does not exist."""
    names = [patch.name for patch in patches]
    for name in without:
        if name not in names:
            raise UsageError(
                f"there is no patch {name!r} to leave out", f"known: {', '.join(names) or 'none'}"
            )


Roots = Mapping[str, Path]
"""Top-level package (`vllm`, `boson_multimodal`) to the folder that it lies in."""


def examine(patches: list[Patch], roots: Roots, without: Iterable[str] = ()) -> list[Finding]:
    """Say for every target of every patch what it meets in a source. Changes nothing."""
    left_out = set(without)
    findings = []
    for file, places in _by_file(patches).items():
        nodes = codemod.find(_read(roots, file), {target.name for _, target in places})
        for patch, target in places:
            found = nodes.get(target.name, [])
            text = found[0] if len(found) == 1 else None
            sha256 = None if text is None else sha256_bytes(text.encode())
            state: State
            if patch.name in left_out:
                state = "left out"
            elif text is None:
                state = "missing"
            elif sha256 == target.sha256:
                state = "applies"
            elif target.fixed and re.search(target.fixed, text, re.DOTALL):
                state = "obsolete"
            else:
                state = "changed"
            findings.append(Finding(patch.name, target, state, sha256))
    return findings


@dataclass(frozen=True)
class Report:
    """Every patch, and what each of its targets meets.

    Attributes:
        patches: as their modules describe them.
        findings: one per target.
    """

    patches: list[Patch]
    findings: list[Finding]

    def state(self, patch: str) -> State:
        """Return the state of a patch: the worst of its targets."""
        states = [x.state for x in self.findings if x.patch == patch]
        return next((x for x in states if x in _WAY_OUT), states[0])

    def text(self) -> str:
        """Return the report as a person reads it."""
        width = max((len(patch.name) for patch in self.patches), default=0)
        rows = [f"{self.state(x.name):<9} {x.name:<{width}}  {x.title}" for x in self.patches]
        rows += [
            f"  {x.state}: {x.target.file} {x.target.name}, patch {x.patch}, now {x.sha256}"
            for x in self.findings
            if x.state in _WAY_OUT
        ]
        return "\n".join(rows)

    def require_fit(self) -> None:
        """Refuse when a patch does not fit.

        Raises:
            PatchError: naming the first patch, file and function, and what to do.
        """
        for finding in self.findings:
            if hint := _WAY_OUT.get(finding.state):
                patch = next(x for x in self.patches if x.name == finding.patch)
                raise PatchError(
                    f"patch {finding.patch} does not fit: {finding.target.file} "
                    f"{finding.target.name} is {finding.state}",
                    f"{hint}. It is needed until: {patch.obsolete_when}",
                )


def report(locked: Lock, roots: Roots, without: Iterable[str] = ()) -> Report:
    """Say for each patch that the lock names whether it fits the pinned source."""
    patches = load(locked.file(locked.patches.folder)) if locked.patches else []
    check_names(patches, without)
    return Report(patches, examine(patches, roots, without))


_WAY_OUT: Mapping[State, str] = {
    "obsolete": "upstream has mended it: remove the target (and the patch when none is left)",
    "changed": "read what upstream changed, adapt the patch, then record the new hash "
    "(invoke patches --json shows it)",
    "missing": "upstream has moved or removed it, or defines it twice: find where it went",
}


def apply(patches: list[Patch], roots: Roots, without: Iterable[str] = ()) -> dict[str, bytes]:
    """Return the new content of every file that the patches change.

    Raises:
        PatchError: a target is not what its patch was written for; names patch, file, function.
    """
    left_out = set(without)
    Report(patches, examine(patches, roots, left_out)).require_fit()
    result = {}
    for file, places in _by_file([x for x in patches if x.name not in left_out]).items():
        swaps = [
            codemod.Swap(x.name, x.how, f"{PACKAGE}.{patch.name}", x.with_) for patch, x in places
        ]
        text = codemod.swap(_read(roots, file), swaps)
        try:
            compile(text, file, "exec", dont_inherit=True)
        except SyntaxError as error:
            raise PatchError(
                f"{file}:{error.lineno}: the patched file is no Python: {error.msg}",
                f"look at the patches {', '.join(p.name for p, _ in places)}",
            ) from None
        result[file] = text.encode()
    return result


def _by_file(patches: Iterable[Patch]) -> dict[str, list[tuple[Patch, Target]]]:
    places: dict[str, list[tuple[Patch, Target]]] = {}
    for patch in patches:
        for target in patch.targets:
            places.setdefault(target.file, []).append((patch, target))
    return dict(sorted(places.items()))


def _read(roots: Roots, file: str) -> str:
    path = roots[file.partition("/")[0]] / file
    return path.read_text() if path.exists() else ""  # every target in an absent file is missing


def diff(roots: Roots, changed: Mapping[str, bytes]) -> str:
    """Return a unified diff from the pinned source to the patched one."""
    pieces: list[str] = []
    for file, data in changed.items():
        old = _read(roots, file).split("\n")
        new = data.decode().split("\n")
        pieces += difflib.unified_diff(old, new, f"a/{file}", f"b/{file}", lineterm="")
    return "\n".join(pieces)


def roots_of(source: Source) -> Roots:
    """Return where the packages of a checkout lie."""
    return {"vllm": source.fork, "boson_multimodal": source.submodule}


@dataclass(frozen=True)
class Patched:
    """The stage's result.

    Attributes:
        files: path below site-packages to new content: changed files of the fork, and our package.
        patches: name, title, issues and sha256 of each patch that is in it.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    patches: list[dict[str, Any]] = field(default_factory=list)


def ensure(
    workspace: Workspace, locked: Lock, source: Source, without: Iterable[str] = ()
) -> Patched:
    """Apply the patches to the pinned source; skipped when neither has changed.

    Args:
        workspace: where; the result is kept in `build/patched`.
        locked: names the source by its tree ids.
        source: the verified checkouts.
        without: names of patches that are left out.

    Raises:
        PatchError: a patch does not fit.
        UsageError: a patch to be left out does not exist.
    """
    package = locked.file(locked.patches.folder) if locked.patches else None
    patches, left_out = load(package) if package else [], sorted(set(without))
    check_names(patches, left_out)
    if not package:
        return Patched()
    ours = {
        f"{PACKAGE}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in files_below(package)
    }
    done: list[dict[str, Any]] = [
        {"name": x.name, "title": x.title, "issues": x.issues, "sha256": x.sha256}
        for x in patches
        if x.name not in left_out
    ]
    target = workspace.build / "patched"
    made_from = json.dumps(
        [locked.fork.tree, locked.submodule.tree, sha256_bytes(Path(__file__).read_bytes()),
         left_out, {x.name: x.sha256 for x in patches}]
    )  # fmt: skip
    with workspace.exclusive("patched"):
        state = workspace.read_state("patched")
        if state.get("from") != made_from or state.get("sha256") != _tree(target):
            files = apply(patches, roots_of(source), left_out)
            new = target.with_name(".patched.new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            for file, data in files.items():
                (new / file).parent.mkdir(parents=True, exist_ok=True)
                (new / file).write_bytes(data)
            replace_folder(new, target)
            workspace.write_state("patched", {"from": made_from, "sha256": _tree(target)})
            log.info("patches: %s", ", ".join(x["name"] for x in done) or "none")
        files = {x.relative_to(target).as_posix(): x.read_bytes() for x in files_below(target)}
    return Patched(files | ours, done)


def _tree(path: Path) -> str | None:
    return tree_sha256([path], path) if path.is_dir() else None
