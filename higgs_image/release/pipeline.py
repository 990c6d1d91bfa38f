"""`./inv release`: from a clean checkout to the floating tag; finished steps are skipped.

    build -> push (journal: who, from what, SBOM) -> sign -> smoke -> promote

After a crash between any two steps the next run goes on from what it finds in the registry.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from higgs_image import checkout, lockfile, process
from higgs_image.attest import provenance, signature
from higgs_image.build import image as build_image
from higgs_image.build.overrides import Overrides
from higgs_image.errors import ReleaseRefusedError
from higgs_image.oci import skopeo, statement
from higgs_image.oci.artifacts import Repository, open_repository
from higgs_image.release import promote, publish, smoke_pushed
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import Moved, command, floating_name
from higgs_image.release.promote import PromotionConditions
from higgs_image.release.records import Entry
from higgs_image.release.smoke_pushed import DeviceVerdict, SmokeTest
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReleaseRequest:
    """What `./inv release` was asked for.

    Attributes:
        workspace: where.
        target: repository, from `reference.repository`.
        compression: gzip or zstd.
        overrides: what deviates from the lock: only a rehearsal allows it.
        conditions: of the promotion.
        promote: move the tag; False: stop after the smoke test.
    """

    workspace: Workspace
    target: str
    compression: str = "gzip"
    overrides: Overrides = field(default_factory=Overrides)
    conditions: PromotionConditions = field(default_factory=PromotionConditions)
    promote: bool = True

    @property
    def journal_folder(self) -> Path:
        """Folder of this machine's copy of the journal."""
        return self.workspace.build / "journal"


@dataclass(frozen=True)
class ReleaseReport:
    """What a release did.

    Attributes:
        tag: the immutable tag.
        by_digest: the image, by a name that never moves.
        digest: of the image.
        pushed: what the registry holds.
        signed: with what it was signed; empty if it was not.
        smoke: the last smoke test on the wanted type of device; None if there is none.
        moved: what became of the floating tag; None if it was left alone.
        notes: file with the release notes; None without a promotion.
        commands: what is left to do, for a person.
    """

    tag: str
    by_digest: str
    digest: str
    pushed: skopeo.Pushed
    signed: str
    smoke: DeviceVerdict | None
    moved: Moved | None
    notes: Path | None
    commands: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Return that of the smoke test; a promotion has decided on it itself."""
        if self.moved:
            return Verdict.PASS
        return self.smoke.verdict if self.smoke else Verdict.INCONCLUSIVE

    def text(self) -> str:
        """Return the report as text."""
        lines = [
            f"tag     {self.tag}",
            f"image   {self.by_digest}" + (" (was there)" if self.pushed.skipped else ""),
            f"signed  {'with ' + self.signed if self.signed else 'NO: set COSIGN_KEY'}",
            f"smoke   {self.smoke.text() if self.smoke else 'none yet'}",
        ]
        lines += [self.moved.text()] if self.moved else []
        lines += [f"notes   {self.notes}"] if self.notes else []
        lines += [f"next:   {x}" for x in self.commands]
        return "\n".join(lines)


def plan(request: ReleaseRequest) -> str:
    """Return what a release would do. Writes nothing.

    Raises:
        UsageError: its conditions contradict each other.
    """
    request.conditions.require_valid(request.target)
    locked = lockfile.load(request.workspace.lock_file)
    lockfile.require_consistent(locked, request.workspace.root)
    locked = locked.for_variant(request.workspace.variant)
    tag = build_image.tag_of(locked, request.compression, request.overrides)
    state = checkout.inspect(request.workspace.root)
    signer = signature.signer()
    floating = floating_name(request.workspace.variant, request.compression)
    commit = state.commit[:7] if state.commit else "no commit"
    steps = [
        f"build   {tag} from {commit}" + ("" if state.clean else " (NOT CLEAN: would be refused)"),
        f"push    {request.target}:{tag}, with its SBOM and provenance",
        f"sign    with {signer.describe()}" if signer else "sign    no: set COSIGN_KEY",
        f"smoke   the pushed digest on a {request.conditions.device_class}",
        f"promote {request.target}:{floating} to that digest"
        if request.promote
        else f"leave   {request.target}:{floating} as it is",
    ]
    return "\n".join(["would do:", *(f"  {step}" for step in steps)])


def run(request: ReleaseRequest, smoke: SmokeTest | None = None) -> ReleaseReport:
    """Release. Steps that were finished before, here or elsewhere, are not done again.

    Args:
        request: what to release.
        smoke: tests an image on this machine; None: another machine does, and this one stops
            where its verdict is missing.

    Raises:
        UsageError: its conditions contradict each other.
        ReleaseRefusedError: the checkout is not clean, or the image lacks what a promotion needs.
        HiggsError: the first failure; run again to go on.
    """
    request.conditions.require_valid(request.target)
    _require_clean(request)
    workspace = request.workspace
    if not checkout.is_published(workspace.root):
        log.info("release: git push it, too: otherwise its source cannot be checked out elsewhere")
    built = build_image.build(workspace, request.compression, request.overrides)
    locked = lockfile.load(workspace.lock_file, workspace.variant)
    pushed, entry = publish.push(built, locked, request.target, request.journal_folder)
    digest = pushed.digest
    with open_repository(request.target) as repository:
        history = Journal(repository, request.journal_folder)
        signed = sign(repository, entry, digest)
        verdict = _smoke(request, history, digest, smoke)
        moved, path, commands = None, None, []
        if request.promote:
            moved, path = promote.promote_with_notes(history, digest, request.conditions, workspace)
        else:
            commands = [
                command(f"{task} {digest} --device-class gpu", repository)
                for task in ("smoke-pushed", "promote")
            ]
    return ReleaseReport(
        built.tag, pushed.by_digest, digest, pushed, signed, verdict, moved, path, tuple(commands)
    )


def _require_clean(request: ReleaseRequest) -> None:
    state = checkout.inspect(request.workspace.root)
    if state.clean or request.conditions.force:
        return
    if state.commit is None:
        raise ReleaseRefusedError(
            f"{request.workspace.root} is not a git checkout, so the release could not be traced",
            "release from a clone",
        )
    names = ", ".join(state.changed[:3]) + (" ..." if len(state.changed) > 3 else "")
    raise ReleaseRefusedError(
        f"the work tree differs from {state.commit[:7]}: {names}",
        "commit or remove the changes, or release from a fresh clone",
    )


def sign(repository: Repository, entry: Entry, digest: str) -> str:
    """Sign the image, its SBOM and its provenance.

    Returns:
        With what it was signed; empty where this machine cannot sign.
    """
    signer = signature.signer()
    if signer is None:
        log.info("sign: skipped (no COSIGN_KEY and no OIDC identity)")
        return ""
    process.find("cosign")
    files = repository.files(entry.tag)
    buildkit = statement.predicate(files[publish.BUILDKIT]) if publish.BUILDKIT in files else None
    attestations = {
        "cyclonedx": files[publish.SBOM],
        provenance.PREDICATE_TYPE: files[publish.PROVENANCE],
    } | ({"slsaprovenance02": buildkit} if buildkit else {})
    signature.sign(repository.name, digest, signer, attestations)
    log.info("sign: %s with %s", repository.reference(digest), signer.describe())
    return signer.describe()


def _smoke(
    request: ReleaseRequest, history: Journal, digest: str, smoke: SmokeTest | None
) -> DeviceVerdict | None:
    """Return the verdict that counts; test the image where none has passed."""
    wanted = request.conditions.device_class
    last = smoke_pushed.last_verdict(history, digest, wanted)
    if smoke is None or (last and last.verdict is Verdict.PASS):
        return last
    smoke_pushed.record_verdict(history, digest, wanted, smoke)
    return smoke_pushed.last_verdict(history, digest, wanted)
