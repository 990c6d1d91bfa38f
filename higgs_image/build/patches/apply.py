"""Stage `patches`: functions that replace broken ones of the fork.

The package of patches goes into the image as it is. A replaced function becomes an import of ours,
in place, so the fork's text is never copied and every patch is plain Python that is tested alone.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgs_image import lockfile
from higgs_image.build.patches import codemod
from higgs_image.build.patches.check import (
    PatchReport,
    Roots,
    examine,
    read_file,
    roots_of,
    targets_by_file,
)
from higgs_image.build.patches.model import PACKAGE, Patch, load_locked
from higgs_image.errors import PatchError
from higgs_image.files import files_below, new_folder, sha256_bytes, tree_sha256
from higgs_image.workspace import Workspace

if TYPE_CHECKING:
    from higgs_image.build.source import Source
    from higgs_image.lockfile import Lock

log = logging.getLogger(__name__)


def apply(patches: list[Patch], roots: Roots, without: Iterable[str] = ()) -> dict[str, bytes]:
    """Return the new content of every file that the patches change.

    Raises:
        PatchError: a target is not what its patch was written for; names patch, file, function.
    """
    left_out = set(without)
    PatchReport(patches, examine(patches, roots, left_out)).require_fit()
    result = {}
    for file, places in targets_by_file([x for x in patches if x.name not in left_out]).items():
        swaps = [
            codemod.Swap(x.name, x.how, f"{PACKAGE}.patches.{patch.name}", x.with_)
            for patch, x in places
        ]
        text = codemod.swap(read_file(roots, file), swaps)
        try:
            compile(text, file, "exec", dont_inherit=True)
        except SyntaxError as error:
            raise PatchError(
                f"{file}:{error.lineno}: the patched file is not valid Python: {error.msg}",
                f"check the patches {', '.join(p.name for p, _ in places)}",
            ) from None
        result[file] = text.encode()
    return result


def diff(roots: Roots, changed: Mapping[str, bytes]) -> str:
    """Return a unified diff from the pinned source to the patched one."""
    pieces: list[str] = []
    for file, data in changed.items():
        old = read_file(roots, file).split("\n")
        new = data.decode().split("\n")
        pieces += difflib.unified_diff(old, new, f"a/{file}", f"b/{file}", lineterm="")
    return "\n".join(pieces)


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
    """Apply the patches to the pinned source; done again only when one of them has changed.

    Args:
        workspace: where; the result is kept in `build/patched`.
        locked: names the source by its tree ids.
        source: the verified checkouts.
        without: names of patches that are left out.

    Raises:
        PatchError: a patch does not fit.
        UsageError: a patch to be left out does not exist.
    """
    left_out = sorted(set(without))
    patches = load_locked(locked, left_out)
    if not locked.patches:
        return Patched()
    package = locked.file(locked.patches.folder)
    ours = {
        f"{PACKAGE}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in lockfile.recipe_files(package)
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
            with new_folder(target) as new:
                for file, data in files.items():
                    (new / file).parent.mkdir(parents=True, exist_ok=True)
                    (new / file).write_bytes(data)
            workspace.write_state("patched", {"from": made_from, "sha256": _tree(target)})
            log.info("patches: %s", ", ".join(x["name"] for x in done) or "none")
        files = {x.relative_to(target).as_posix(): x.read_bytes() for x in files_below(target)}
    return Patched(files | ours, done)


def _tree(path: Path) -> str | None:
    return tree_sha256([path], path) if path.is_dir() else None
