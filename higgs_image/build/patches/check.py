"""Whether each patch fits a source.

A target that differs from its hash stops the build: either it is fixed upstream (obsolete) or the
patch has to be reviewed (changed).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from higgs_image.build.patches import codemod
from higgs_image.build.patches.model import Patch, Target, load_locked
from higgs_image.errors import PatchError
from higgs_image.files import sha256_bytes

if TYPE_CHECKING:
    from higgs_image.build.source import Source
    from higgs_image.lockfile import Lock

State = Literal["applies", "obsolete", "changed", "missing", "left out"]
"""The state of a patch in a source. A build needs `applies` or `left out`."""


@dataclass(frozen=True)
class PatchFinding:
    """The state of one target of one patch in a source.

    Attributes:
        patch: name of the patch.
        target: the place.
        state: see `State`.
        sha256: hash of the function there now; None if it does not exist.
    """

    patch: str
    target: Target
    state: State
    sha256: str | None


Roots = Mapping[str, Path]
"""Top-level package (`vllm`, `boson_multimodal`) to its folder."""


def examine(patches: list[Patch], roots: Roots, without: Iterable[str] = ()) -> list[PatchFinding]:
    """Return the state of every target of every patch in a source. Changes nothing."""
    left_out = set(without)
    findings = []
    for file, places in targets_by_file(patches).items():
        nodes = codemod.find(read_file(roots, file), {target.name for _, target in places})
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
            findings.append(PatchFinding(patch.name, target, state, sha256))
    return findings


@dataclass(frozen=True)
class PatchReport:
    """Every patch, and the state of each of its targets.

    Attributes:
        patches: as their modules describe them.
        findings: one per target.
    """

    patches: list[Patch]
    findings: list[PatchFinding]

    def state(self, patch: str) -> State:
        """Return the state of a patch: the worst of its targets."""
        states = [x.state for x in self.findings if x.patch == patch]
        return next((x for x in states if x in _HINTS), states[0])

    def text(self) -> str:
        """Return the report as text."""
        width = max((len(patch.name) for patch in self.patches), default=0)
        rows = [f"{self.state(x.name):<9} {x.name:<{width}}  {x.title}" for x in self.patches]
        rows += [
            f"  {x.state}: {x.target.file} {x.target.name}, patch {x.patch}, now {x.sha256}"
            for x in self.findings
            if x.state in _HINTS
        ]
        return "\n".join(rows)

    def require_fit(self) -> None:
        """Refuse when a patch does not fit.

        Raises:
            PatchError: naming the first patch, file and function, and what to do.
        """
        for finding in self.findings:
            if hint := _HINTS.get(finding.state):
                patch = next(x for x in self.patches if x.name == finding.patch)
                raise PatchError(
                    f"patch {finding.patch} does not fit: {finding.target.file} "
                    f"{finding.target.name} is {finding.state}",
                    f"{hint}. It is needed until: {patch.obsolete_when}",
                )


def report(locked: Lock, roots: Roots, without: Iterable[str] = ()) -> PatchReport:
    """Check each patch of the lock against the pinned source."""
    patches = load_locked(locked, without)
    return PatchReport(patches, examine(patches, roots, without))


_HINTS: Mapping[State, str] = {
    "obsolete": "it is fixed upstream: remove the target (and the patch with its last target)",
    "changed": "read what upstream changed, adapt the patch, then record the new hash "
    "(./inv patches --json shows it)",
    "missing": "upstream has moved or removed it, or defines it twice: find its new place",
}


def targets_by_file(patches: Iterable[Patch]) -> dict[str, list[tuple[Patch, Target]]]:
    """Return path in the fork or submodule to the targets in that file."""
    places: dict[str, list[tuple[Patch, Target]]] = {}
    for patch in patches:
        for target in patch.targets:
            places.setdefault(target.file, []).append((patch, target))
    return dict(sorted(places.items()))


def read_file(roots: Roots, file: str) -> str:
    """Return the text of a file of the source; empty if it does not exist."""
    path = roots[file.partition("/")[0]] / file
    return path.read_text() if path.exists() else ""  # every target in an absent file is missing


def roots_of(source: Source) -> Roots:
    """Return the folders of the packages in a checkout."""
    return {"vllm": source.fork, "boson_multimodal": source.submodule}
