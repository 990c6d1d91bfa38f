"""Releasing: release, promote, rollback, smoke-pushed, cleanup."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks._image import (
    BUILD_FLAGS,
    IMAGE_HELP,
    PLACE,
    PROMOTION,
    BuildFlags,
    ImagePlace,
    PromotionFlags,
)
from higgs_image.tasks._workspace import VARIANT_HELP, current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output

if TYPE_CHECKING:
    from higgs_image.cloud.promotion import TemplateTarget

_DRY_RUN = "show what would be done, change nothing"
_TEMPLATE = "let RunPod's template name the image, too (docs/runpod.md)"


def _template_target() -> TemplateTarget:
    from higgs_image.cloud import description
    from higgs_image.cloud.promotion import TemplateTarget
    from higgs_image.cloud.runpod import client

    return TemplateTarget(client.from_environment(), description.load(current_workspace().root))


@task(
    help={
        "compression": "gzip, or zstd (moves custom-zstd)",
        "base_image": "build on another base image; only in a rehearsal",
        "extra_ca": "PEM file with CA certificates that the build must trust; only in a rehearsal",
        "promote": "move the floating tag at the end (default: yes)",
        "smoke": "test the pushed image on this machine (default: yes); otherwise another machine "
        "does, with ./inv smoke-pushed",
        "bench": "end the smoke test with a short benchmark, whose figures are recorded, too",
        "dry_run": _DRY_RUN,
    }
    | VARIANT_HELP
)
def release(
    _: Context,
    out: Output,
    place: ImagePlace = PLACE,
    compression: str = "",
    build: BuildFlags = BUILD_FLAGS,
    variant: str = "",
    promote: bool = True,
    smoke: bool = True,
    bench: bool = False,
    promotion: PromotionFlags = PROMOTION,
    dry_run: bool = False,
) -> None:
    """Build, push, sign, smoke-test and promote; finished steps are skipped."""
    from higgs_image.errors import SMOKE_EXIT_CODES
    from higgs_image.release import pipeline, smoke_pushed

    request = pipeline.ReleaseRequest(
        workspace=current_workspace(variant),
        target=place.repository(),
        compression=compression,
        overrides=build.overrides(),
        conditions=promotion.conditions(),
        promote=promote,
    )
    if dry_run:
        text = pipeline.plan(request)
        out.result({"plan": text.splitlines()[1:]}, text)
        return
    test = smoke_pushed.smoke_here(request.workspace, bench=bench) if smoke else None
    report = pipeline.run(request, test)
    out.result(report, report.text())
    sys.exit(SMOKE_EXIT_CODES[report.verdict] if smoke else 0)


@task(
    positional=["digest"],
    help={"digest": IMAGE_HELP, "template": _TEMPLATE, "dry_run": _DRY_RUN},
)
def promote(
    _: Context,
    out: Output,
    digest: str,
    place: ImagePlace = PLACE,
    promotion: PromotionFlags = PROMOTION,
    template: bool = False,
    dry_run: bool = False,
) -> None:
    """Point the floating tag at a tested digest."""
    from higgs_image.cloud import promotion as cloud_promotion
    from higgs_image.release import promote as release_promote

    with place.image(digest) as (history, what):
        conditions = promotion.conditions()
        target = _template_target() if template else None
        if dry_run:
            plan = release_promote.plan_promotion(history, what, conditions).steps
            planned = target.plan(history, what, conditions) if target else None
            text = "\n".join([plan.text(), *([planned.text()] if planned else [])])
            changes = {"template": planned.changes} if planned else {}
            out.result({"plan": plan, **changes}, text)
        elif target:
            moved, notes, applied = cloud_promotion.promote_with_template(
                history, what, conditions, current_workspace(), target
            )
            text = f"{moved.text()}\n{applied.text()}\nnotes: {notes}"
            out.result({"moved": moved, "template": applied, "notes": notes}, text,
                       notes.read_text())  # fmt: skip
        else:
            moved, notes = release_promote.promote_with_notes(
                history, what, conditions, current_workspace()
            )
            text = f"{moved.text()}\nnotes: {notes}"
            out.result({"moved": moved, "notes": notes}, text, notes.read_text())


@task(
    help={
        "reason": "why; recorded in the journal",
        "to": "digest to go back to (default: the one before the present one)",
        "moving": "the floating tag (default: custom)",
        "template": _TEMPLATE,
        "device_class": PromotionFlags.HELP["device_class"],
        "yes": "apply it; without this it is only planned",
    }
)
def rollback(
    _: Context,
    out: Output,
    place: ImagePlace = PLACE,
    reason: str = "",
    to: str | None = None,
    moving: str = "custom",
    template: bool = False,
    device_class: str = "",
    yes: bool = False,
) -> None:
    """Point the floating tag back at an image that it named before."""
    from higgs_image.cloud import promotion
    from higgs_image.release import move_plan
    from higgs_image.release import rollback as release_rollback
    from higgs_image.release.promote import PromotionConditions

    with place.journal() as history:
        if yes:
            move_plan.settle(history)
        target = _template_target() if template else None
        plan = release_rollback.plan_rollback(history, reason, moving, to)
        conditions = PromotionConditions(device_class, rehearsal=plan.move.rehearsal)
        if target and yes:
            moved, applied = promotion.roll_back_with_template(history, plan, conditions, target)
            out.result({"moved": moved, "template": applied}, f"{moved.text()}\n{applied.text()}")
        elif target:
            planned = target.plan(history, plan.move.digest, conditions)
            text = f"{plan.text()}\n{planned.text()}\napply it with --yes"
            out.result({"plan": plan, "template": planned.changes}, text)
        elif yes:
            moved = move_plan.apply(history, plan)
            out.result({"moved": moved}, moved.text())
        else:
            out.result({"plan": plan}, f"{plan.text()}\napply it with --yes")


@task(
    name="smoke-pushed",
    aliases=("record",),
    positional=["digest"],
    help={
        "digest": IMAGE_HELP,
        "file": "record of a smoke test that ran elsewhere (default: test it here)",
        "bench": "end with a short benchmark, whose figures are recorded, too",
        "device_class": "gpu or cpu: what to test it on (default: DEVICE_CLASS, then invoke.yaml)",
    },
)
def smoke_pushed(
    _: Context,
    out: Output,
    digest: str,
    file: Path | None = None,
    device_class: str = "",
    bench: bool = False,
    place: ImagePlace = PLACE,
) -> None:
    """Smoke-test a pushed image by its digest, and record the verdict in the journal."""
    from higgs_image.errors import SMOKE_EXIT_CODES
    from higgs_image.release import smoke_pushed as release_smoke
    from higgs_image.smoke import report as smoke_report

    with place.image(digest) as (history, what):
        test = release_smoke.smoke_here(current_workspace(), bench=bench)
        entry, record = release_smoke.record_verdict(history, what, device_class, test, file)
    out.result({"entry": entry}, entry.text(), smoke_report.markdown(record))
    sys.exit(SMOKE_EXIT_CODES[record.verdict])


@task(
    iterable=["pins"],
    help={
        "keep": "how many of the newest images stay (default: 10)",
        "pins": "file whose digests and tags stay; can be given several times",
        "yes": "delete them; without this it is only planned",
    },
)
def cleanup(
    _: Context,
    out: Output,
    pins: list[Path],
    keep: int = 10,
    place: ImagePlace = PLACE,
    yes: bool = False,
) -> None:
    """Delete old images that were never promoted, are not pinned, and are not among the newest."""
    from higgs_image.release import image_store, retention

    with place.journal() as history:
        store = image_store.store_of(history.repository)
        plan = retention.plan_cleanup(history, store, keep, retention.pins_in(pins))
        done = retention.apply(history, store, plan) if yes else []
        title = "deleted:" if yes else "would delete (apply it with --yes):"
        out.result({"plan": plan, "deleted": done}, f"{title}\n{plan.text()}")
