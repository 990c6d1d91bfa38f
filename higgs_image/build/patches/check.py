"""Stage `patches`: our own functions in the place of the fork's broken ones.

A patch is a module of docker/patches/higgs_patches with a literal named PATCH: what it mends, why,
and which functions of the fork it replaces or wraps, each with the hash of the source that it was
written for. The package goes into the image as it is; a replaced function becomes an import of
ours, in place, so the fork's text is never copied and every patch is plain Python that can be
tested alone. A target that differs from its hash stops the build: either upstream has mended it
(obsolete) or somebody has to look (changed).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from higgs_image.build.patches import codemod
from higgs_image.build.patches.model import Patch, Target, check_names, load
from higgs_image.errors import PatchError
from higgs_image.files import sha256_bytes

if TYPE_CHECKING:
    from higgs_image.build.source import Source
    from higgs_image.lockfile import Lock

log = logging.getLogger(__name__)

State = Literal["applies", "obsolete", "changed", "missing", "left out"]
"""What a patch meets in the pinned source. Only `applies` and `left out` let a build go on."""


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


def _by_file(patches: Iterable[Patch]) -> dict[str, list[tuple[Patch, Target]]]:
    places: dict[str, list[tuple[Patch, Target]]] = {}
    for patch in patches:
        for target in patch.targets:
            places.setdefault(target.file, []).append((patch, target))
    return dict(sorted(places.items()))


def _read(roots: Roots, file: str) -> str:
    path = roots[file.partition("/")[0]] / file
    return path.read_text() if path.exists() else ""  # every target in an absent file is missing


def roots_of(source: Source) -> Roots:
    """Return where the packages of a checkout lie."""
    return {"vllm": source.fork, "boson_multimodal": source.submodule}
