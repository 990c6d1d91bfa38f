"""`invoke release`: from a clean checkout to the moving tag. Each step is skipped when it is done.

    build -> push (journal: who, from what, what is in it) -> sign -> smoke -> promote

After a crash between any two steps the next run goes on from what it finds in the registry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from higgs_image import checkout, lockfile, process
from higgs_image.attest import provenance, signature, statement
from higgs_image.build import image as build_image
from higgs_image.build.overrides import Overrides
from higgs_image.errors import ReleaseRefusedError
from higgs_image.files import write_atomically
from higgs_image.oci import credentials, layout, skopeo
from higgs_image.oci.artifacts import Repository, open_repository
from higgs_image.oci.reference import split
from higgs_image.release import evidence, journal, publish
from higgs_image.release import notes as release_notes
from higgs_image.release import promote as release_promote
from higgs_image.release import records as release_records
from higgs_image.release.journal import Journal
from higgs_image.release.records import Promote, Push
from higgs_image.smoke import record as smoke_record
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)

Smoke = Callable[[str, str], bytes]
"""Tests an image, named by its digest, on a class of device, and returns its record."""


@dataclass(frozen=True)
class Request:
    """What `invoke release` was asked for.

    Attributes:
        workspace: where.
        target: repository, from `registry.repository`.
        compression: gzip or zstd.
        overrides: what deviates from the lock: only a rehearsal gets past them.
        conditions: of the promotion.
        promote: move the tag; False: stop after the smoke test.
    """

    workspace: Workspace
    target: str
    compression: str = "gzip"
    overrides: Overrides = field(default_factory=Overrides)
    conditions: release_promote.Request = field(default_factory=release_promote.Request)
    promote: bool = True

    @property
    def journal_folder(self) -> Path:
        """Where this machine's copy of the journal lies."""
        return self.workspace.build / "journal"


@dataclass(frozen=True)
class Report:
    """What a release did.

    Attributes:
        tag: the immutable tag.
        by_digest: the image, by a name that never moves.
        digest: of the image.
        pushed: what the registry holds.
        signed: with what it was signed; empty if it was not.
        smoke: verdict of the smoke test that counts; empty if there is none.
        moved: what became of the moving tag; None if it was left alone.
        notes: file with the release notes; None without a promotion.
        commands: what was left to do, for a person.
    """

    tag: str
    by_digest: str
    digest: str
    pushed: skopeo.Pushed
    signed: str
    smoke: str
    moved: release_promote.Moved | None
    notes: Path | None
    commands: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the report as a person reads it."""
        lines = [
            f"tag     {self.tag}",
            f"image   {self.by_digest}" + (" (was there)" if self.pushed.skipped else ""),
            f"signed  {'with ' + self.signed if self.signed else 'NO: set COSIGN_KEY'}",
            f"smoke   {self.smoke or 'none yet'}",
        ]
        lines += [self.moved.text()] if self.moved else []
        lines += [f"notes   {self.notes}"] if self.notes else []
        lines += [f"next:   {x}" for x in self.commands]
        return "\n".join(lines)


def smoke_here(workspace: Workspace) -> Smoke:
    """Return the smoke test on this machine's engine."""

    def test(reference: str, device: str) -> bytes:
        from higgs_image.oci import daemon
        from higgs_image.smoke import session

        name, _ = split(reference)
        if login := credentials.login(name.split("/")[0]):
            with daemon.docker_client() as client:
                log.info("smoke: pulling %s", reference)
                client.images.pull(
                    reference, auth_config={"username": login[0], "password": login[1]}
                )
        _, folder = session.run(workspace, session.SmokeOptions(image=reference, device=device))
        return (folder / "record.json").read_bytes()

    return test


def record(
    repository: Repository,
    history: Journal,
    what: str,
    device_class: str,
    smoke: Smoke,
    file: Path | None = None,
) -> tuple[release_records.Entry, smoke_record.Record]:
    """Write the verdict of a smoke test to the journal.

    Args:
        repository: where the image is.
        history: its journal.
        what: a digest or tag.
        device_class: what to test it on.
        smoke: tests it.
        file: the record of a test that was made elsewhere; None: test it now.

    Returns:
        The entry, and the record that is kept with it.

    Raises:
        RegistryNotFoundError: there is no such image.
        UsageError: the record is malformed, or of another image.
        HiggsError: the test could not be made.
    """
    digest = release_promote.digest_of(repository, what)
    data = file.read_bytes() if file else smoke(repository.reference(digest), device_class)
    told = evidence.load_smoke(data, digest)
    return evidence.record_smoke(history, data), told


def plan(request: Request) -> str:
    """Say what a release would do. Writes nothing."""
    locked = lockfile.load(request.workspace.lock_file)
    lockfile.require_consistent(locked, request.workspace.root)
    tag = build_image.tag_of(locked, request.compression, request.overrides)
    state = checkout.inspect(request.workspace.root)
    signer = signature.signer()
    moving = release_promote.MOVING + build_image.COMPRESSIONS[request.compression]
    commit = state.commit[:7] if state.commit else "no commit"
    steps = [
        f"build   {tag} from {commit}" + ("" if state.clean else " (NOT CLEAN: would be refused)"),
        f"push    {request.target}:{tag}, with the list of what is in it, and its provenance",
        f"sign    with {signer.words()}" if signer else "sign    no: set COSIGN_KEY",
        f"smoke   the pushed digest on a {request.conditions.device_class}",
        f"promote {request.target}:{moving} to that digest"
        if request.promote
        else f"leave   {request.target}:{moving} as it is",
    ]
    return "\n".join(["would do:", *(f"  {step}" for step in steps)])


def run(request: Request, smoke: Smoke | None = None) -> Report:
    """Release. Steps that were finished before, here or elsewhere, are not done again.

    Args:
        request: what to release.
        smoke: tests an image on this machine; None: another machine does, and this one stops
            where its verdict is missing.

    Raises:
        ReleaseRefusedError: the checkout is not clean, or the image lacks what a promotion needs.
        HiggsError: the first failure; run again to go on.
    """
    _require_clean(request)
    workspace = request.workspace
    if not checkout.is_published(workspace.root):
        log.info("release: git push it, too: else nobody can check out what it was built from")
    built = build_image.build(workspace, request.compression, request.overrides)
    locked = lockfile.load(workspace.lock_file)
    pushed, entry = publish.push(built, locked, request.target, request.journal_folder)
    digest = pushed.digest
    with open_repository(request.target) as repository:
        history = Journal(repository, request.journal_folder)
        signed = sign(repository, entry, digest)
        verdict = _smoke(request, repository, history, digest, smoke)
        moved, path, commands = None, None, []
        if request.promote:
            moved, path = promote_with_notes(
                repository, history, digest, request.conditions, workspace
            )
        else:
            commands = [
                release_promote.command(f"{task} {digest} --device-class gpu", repository)
                for task in ("record", "promote")
            ]
    return Report(
        built.tag, pushed.by_digest, digest, pushed, signed, verdict, moved, path, tuple(commands)
    )


def _require_clean(request: Request) -> None:
    state = checkout.inspect(request.workspace.root)
    if state.clean or request.conditions.force:
        return
    if state.commit is None:
        raise ReleaseRefusedError(
            f"{request.workspace.root} is no git checkout: nobody could say what was released",
            "release from a clone",
        )
    names = ", ".join(state.changed[:3]) + (" ..." if len(state.changed) > 3 else "")
    raise ReleaseRefusedError(
        f"the work tree differs from {state.commit[:7]}: {names}",
        "commit or remove the changes, or release from a fresh clone",
    )


def sign(repository: Repository, entry: release_records.Entry, digest: str) -> str:
    """Sign the image and what is known of it; return with what, empty if that is not possible."""
    signer = signature.signer()
    if signer is None:
        log.info("sign: no (COSIGN_KEY is not set, and this is no workflow with an identity)")
        return ""
    process.find("cosign")
    files = repository.files(entry.tag)
    buildkit = statement.predicate(files[publish.BUILDKIT]) if publish.BUILDKIT in files else None
    attestations = {
        "cyclonedx": files[publish.SBOM],
        provenance.PREDICATE_TYPE: files[publish.PROVENANCE],
    } | ({"slsaprovenance02": buildkit} if buildkit else {})
    signature.sign(repository.name, digest, signer, attestations)
    log.info("sign: %s with %s", repository.reference(digest), signer.words())
    return signer.words()


def _smoke(
    request: Request, repository: Repository, history: Journal, digest: str, smoke: Smoke | None
) -> str:
    """Return the verdict that counts; make the test where there is none that passed."""
    wanted = request.conditions.device_class

    def last() -> str:
        known, _ = evidence.gather(repository, history, digest)
        records = [x for x in known.smokes if x.device.kind == wanted]
        return f"{wanted}: {records[-1].verdict}" if records else ""

    verdict = last()
    if verdict.endswith(": pass") or smoke is None:
        return verdict
    record(repository, history, digest, wanted, smoke)
    return last()


def promote_with_notes(
    repository: Repository,
    history: Journal,
    what: str,
    conditions: release_promote.Request,
    workspace: Workspace,
) -> tuple[release_promote.Moved, Path]:
    """Promote an image and keep release notes and manifest with the record.

    Returns:
        What was done, and the file with the notes.
    """
    release_promote.settle(repository, history)
    planned = release_promote.plan_promotion(repository, history, what, conditions)
    manifest = describe(repository, history, planned)
    text = release_notes.render(manifest)
    folder = workspace.build / "release" / (manifest["tag"] or planned.move.digest[7:19])
    write_atomically(folder / release_notes.NOTES, text.encode())
    write_atomically(folder / release_notes.MANIFEST, release_notes.encode(manifest))
    files = {
        release_notes.NOTES: (text.encode(), "text/markdown"),
        release_notes.MANIFEST: (release_notes.encode(manifest), evidence.JSON),
    }
    return release_promote.apply(repository, history, planned, files), folder / release_notes.NOTES


def describe(
    repository: Repository, history: Journal, planned: release_promote.Plan
) -> dict[str, Any]:
    """Return the manifest of a release that is planned, with the differences to the last one."""
    record = planned.move
    assert isinstance(record, Promote)  # noqa: S101 (by plan_promotion)
    known, _ = evidence.gather(repository, history, record.digest)
    earlier = [
        x.record.digest
        for x in journal.promoted(history.read(_is_move), record.moving)
        if x.record.digest != record.digest
    ]
    old = _release(repository, history, earlier[-1]) if earlier else None
    new = _release(repository, history, record.digest)
    return release_notes.document(repository.name, record, known, new, old)


def _release(repository: Repository, history: Journal, digest: str) -> release_notes.Release:
    pushed = [x for x in history.of(digest) if isinstance(x.record, Push)]
    files = repository.files(pushed[-1].tag) if pushed else {}
    push = pushed[-1].record if pushed else None
    manifest = repository.manifest(digest)
    image = layout.describe(digest, manifest, repository.config(digest)) if manifest else None
    assert push is None or isinstance(push, Push)  # noqa: S101 (filtered above)
    return release_notes.release(digest, push, image, files)


def _is_move(tag: str) -> bool:
    return journal.event_of(tag) in ("promote", "rollback")
