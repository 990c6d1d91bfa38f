"""Promotion: a floating tag goes to exactly the digest that was tested."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from higgs_image.attest import sbom
from higgs_image.build import layers
from higgs_image.errors import ReleaseRefusedError, UsageError
from higgs_image.files import write_atomically
from higgs_image.labels import VARIANT
from higgs_image.oci import layout
from higgs_image.oci.reference import is_loopback
from higgs_image.release import evidence, move_plan, notes, policy, records, speed
from higgs_image.release.actor import actor
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import Moved, MovePlan, TagState
from higgs_image.release.publish import LOCK, SBOM
from higgs_image.release.records import Promote, Push
from higgs_image.workspace import Workspace


@dataclass(frozen=True)
class PromotionConditions:
    """What a promotion requires.

    Attributes:
        device_class: type of device on which the smoke test must have passed: gpu or cpu.
        force: override refusals; needs a reason.
        reason: why; written to the journal.
        rehearsal: on loopback only: allow a fake fork and the overrides that a machine without
            access to the locked base needs. The record says so.
        not_worse_than: share by which the image's benchmark may be worse than that of the last
            release; None: no benchmark is required.
    """

    device_class: str = "gpu"
    force: bool = False
    reason: str = ""
    rehearsal: bool = False
    not_worse_than: float | None = None

    def require_valid(self, repository: str) -> None:
        """Refuse conditions that contradict each other or the repository.

        Raises:
            UsageError: naming the flag.
        """
        if self.force and not self.reason.strip():
            raise UsageError(
                "--force needs a reason, which is written to the journal",
                "--force --reason 'why it must be'",
            )
        if self.rehearsal and not is_loopback(repository):
            raise UsageError(
                f"--rehearsal is for registries on loopback, {repository} is not one",
                "release the real image, or use a registry such as 127.0.0.1:5000",
            )


@dataclass(frozen=True)
class PromotionPlan:
    """A planned promotion, and what it was decided on.

    Attributes:
        steps: what would be done.
        record: the record that announces it.
        known: everything that is known of the image.
        before: the tag and its moves when it was planned.
    """

    steps: MovePlan
    record: Promote
    known: policy.Known
    before: TagState


def plan_promotion(history: Journal, what: str, conditions: PromotionConditions) -> PromotionPlan:
    """Plan a promotion. Reads only.

    Args:
        history: the journal of the repository.
        what: a digest, or an immutable tag.
        conditions: what it requires.

    Raises:
        ReleaseRefusedError: naming every reason; only --force with a reason overrides them.
        RegistryNotFoundError: there is no such image.
        UsageError: the conditions contradict each other.
    """
    repository = history.repository
    conditions.require_valid(repository.name)
    digest, manifest = move_plan.find_image(repository, what)
    known, entries = evidence.gather(history, digest)
    floating = move_plan.floating_tag(manifest, known.labels)
    before = move_plan.tag_state(history, floating)
    decision = policy.decide(
        known, conditions.device_class, force=conditions.force, rehearsal=conditions.rehearsal,
        also=_slower(history, known, before, conditions.not_worse_than),
    )  # fmt: skip
    if left := decision.refused:
        overridable = all(x.forcible for x in left)
        raise ReleaseRefusedError(
            f"{repository.reference(digest)} is not promoted: " + "; ".join(x.reason for x in left),
            "; ".join(dict.fromkeys(x.remedy for x in left))
            + (
                "; --force with --reason overrides it, and is written to the journal"
                if overridable
                else ""
            ),
        )
    push = known.push
    record = Promote(
        digest=digest,
        at=records.now(),
        by=actor(),
        moving=floating,
        previous=before.present,
        immutable=push.tag if push else "",
        lock_sha256=push.lock_sha256 if push else known.labels.get(policy.LOCK, ""),
        reason=conditions.reason,
        forced=[x.reason for x in decision.forced],
        rehearsal=conditions.rehearsal,
        evidence=[entry.tag for entry in entries],
    )
    steps = MovePlan(
        repository.name,
        record,
        nothing_to_do=before.present == digest and before.agrees,
        notes=tuple(
            [f"forced although {x.reason}" for x in decision.forced]
            + [f"allowed in a rehearsal: {x.reason}" for x in decision.rehearsed]
        ),
        undo=move_plan.undo(repository, floating, before.present),
    )
    return PromotionPlan(steps, record, known, before)


def _slower(
    history: Journal, known: policy.Known, before: TagState, share: float | None
) -> list[policy.Refusal]:
    """Return what a benchmark that is worse than the last release's has against a promotion."""
    if share is None:
        return []
    last = _earlier(before, known.digest)
    old = evidence.gather(history, last)[0].smokes if last else ()
    return list(speed.refusals(known.smokes, old, share))


def _earlier(before: TagState, digest: str) -> str | None:
    """Return the last digest that the tag named, other than this one."""
    found = [x.record.digest for x in before.moves if x.record.digest != digest]
    return found[-1] if found else None


def promote_with_notes(
    history: Journal, what: str, conditions: PromotionConditions, workspace: Workspace
) -> tuple[Moved, Path]:
    """Promote an image and keep release notes and manifest with the record.

    Returns:
        What was done, and the file with the notes.
    """
    move_plan.settle(history)
    plan = plan_promotion(history, what, conditions)
    plain = layers.load(workspace.layers_file).plain_of(plan.known.labels.get(VARIANT, ""))
    earlier = _earlier(plan.before, plan.record.digest)
    new = _release(history, plan.record.digest)
    old = _release(history, earlier) if earlier else None
    manifest = notes.document(history.repository.name, plan.record, plan.known, new, old, plain)
    text = notes.render(manifest)
    folder = workspace.build / "release" / (manifest["tag"] or plan.record.digest[7:19])
    write_atomically(folder / notes.NOTES, text.encode())
    write_atomically(folder / notes.MANIFEST, notes.encode(manifest))
    files = {
        notes.NOTES: (text.encode(), "text/markdown"),
        notes.MANIFEST: (notes.encode(manifest), evidence.JSON),
    }
    return move_plan.apply(history, plan.steps, files), folder / notes.NOTES


def _release(history: Journal, digest: str) -> notes.Release:
    repository = history.repository
    pushed = [x for x in history.of(digest) if isinstance(x.record, Push)]
    files = repository.files(pushed[-1].tag) if pushed else {}
    push = pushed[-1].record if pushed else None
    manifest = repository.manifest(digest)
    image = layout.describe(digest, manifest, repository.config(digest)) if manifest else None
    assert push is None or isinstance(push, Push)  # noqa: S101 (filtered above)
    lock = tomllib.loads(files[LOCK].decode()) if LOCK in files else {}
    versions = sbom.versions(files[SBOM]) if SBOM in files else {}
    return notes.Release(digest, push, image, lock, versions)
