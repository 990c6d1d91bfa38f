"""Releasing: release, promote, rollback, smoke-pushed, cleanup."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks._image import (
    CONDITIONS_HELP,
    IMAGE_HELP,
    REGISTRY_HELP,
    journal_of,
    open_image,
    open_journal,
    target_of,
)
from higgs_image.tasks._workspace import VARIANT_HELP, current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import existing_file, output, setting

if TYPE_CHECKING:
    from higgs_image.cloud.promotion import TemplateTarget
    from higgs_image.release.promote import PromotionConditions

_DRY_RUN = "show what would be done, change nothing"
_NOT_WORSE = {
    "not_worse_than": "share, such as 0.1: require a benchmark on a GPU (./inv smoke-pushed "
    "--bench) that is at most that much worse than the last release's"
}
_TEMPLATE = "let RunPod's template name the image, too (docs/runpod.md)"


def _conditions(
    c: Context,
    device_class: str | None,
    force: bool,
    reason: str,
    rehearsal: bool,
    share: str = "",
) -> PromotionConditions:
    from higgs_image.release.promote import PromotionConditions

    chosen = setting(c, "device_class", device_class)
    return PromotionConditions(chosen, force, reason, rehearsal, float(share) if share else None)


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
    | CONDITIONS_HELP
    | _NOT_WORSE
    | REGISTRY_HELP
)
def release(
    c: Context,
    registry: str | None = None,
    name: str | None = None,
    compression: str | None = None,
    base_image: str | None = None,
    extra_ca: str | None = None,
    variant: str = "",
    promote: bool = True,
    smoke: bool = True,
    bench: bool = False,
    device_class: str | None = None,
    force: bool = False,
    reason: str = "",
    rehearsal: bool = False,
    not_worse_than: str = "",
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Build, push, sign, smoke-test and promote; finished steps are skipped."""
    from higgs_image.build.overrides import Overrides
    from higgs_image.errors import SMOKE_EXIT_CODES
    from higgs_image.release import pipeline, smoke_pushed

    code = 0
    with output(json) as out:
        request = pipeline.ReleaseRequest(
            workspace=current_workspace(variant),
            target=target_of(c, registry, name),
            compression=setting(c, "compression", compression),
            overrides=Overrides(
                setting(c, "base_image", base_image) or None,
                existing_file(setting(c, "extra_ca", extra_ca), "--extra-ca"),
            ),
            conditions=_conditions(c, device_class, force, reason, rehearsal, not_worse_than),
            promote=promote,
        )
        if dry_run:
            text = pipeline.plan(request)
            out.result({"plan": text.splitlines()[1:]}, text)
        else:
            test = smoke_pushed.smoke_here(request.workspace, bench=bench) if smoke else None
            report = pipeline.run(request, test)
            out.result(report, report.text())
            code = SMOKE_EXIT_CODES[report.verdict] if smoke else 0
    sys.exit(code)


@task(
    positional=["digest"],
    help={"digest": IMAGE_HELP, "template": _TEMPLATE, "dry_run": _DRY_RUN}
    | CONDITIONS_HELP
    | _NOT_WORSE
    | REGISTRY_HELP,
)
def promote(
    c: Context,
    digest: str,
    registry: str | None = None,
    name: str | None = None,
    device_class: str | None = None,
    force: bool = False,
    reason: str = "",
    rehearsal: bool = False,
    not_worse_than: str = "",
    template: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Point the floating tag at a tested digest."""
    from higgs_image.cloud import promotion
    from higgs_image.release import promote as release_promote

    with output(json) as out, open_image(c, digest, registry, name) as (repository, what):
        history = journal_of(repository)
        conditions = _conditions(c, device_class, force, reason, rehearsal, not_worse_than)
        target = _template_target() if template else None
        if dry_run:
            plan = release_promote.plan_promotion(history, what, conditions).steps
            planned = target.plan(history, what, conditions) if target else None
            text = "\n".join([plan.text(), *([planned.text()] if planned else [])])
            changes = {"template": planned.changes} if planned else {}
            out.result({"plan": plan, **changes}, text)
        elif target:
            moved, notes, applied = promotion.promote_with_template(
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
        "device_class": CONDITIONS_HELP["device_class"],
        "yes": "apply it; without this it is only planned",
    }
    | REGISTRY_HELP
)
def rollback(
    c: Context,
    registry: str | None = None,
    name: str | None = None,
    reason: str = "",
    to: str | None = None,
    moving: str = "custom",
    template: bool = False,
    device_class: str | None = None,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Point the floating tag back at an image that it named before."""
    from higgs_image.cloud import promotion
    from higgs_image.release import move_plan
    from higgs_image.release import rollback as release_rollback

    with output(json) as out, open_journal(c, registry, name) as history:
        if yes:
            move_plan.settle(history)
        target = _template_target() if template else None
        plan = release_rollback.plan_rollback(history, reason, moving, to or None)
        conditions = _conditions(c, device_class, False, "", plan.move.rehearsal, "")
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
    aliases=["record"],
    positional=["digest"],
    help={
        "digest": IMAGE_HELP,
        "file": "record of a smoke test that ran elsewhere (default: test it here)",
        "bench": "end with a short benchmark, whose figures are recorded, too",
        "device_class": "gpu or cpu: what to test it on (default: DEVICE_CLASS, then invoke.yaml)",
    }
    | REGISTRY_HELP,
)
def smoke_pushed(
    c: Context,
    digest: str,
    file: str | None = None,
    device_class: str | None = None,
    bench: bool = False,
    registry: str | None = None,
    name: str | None = None,
    json: bool = False,
) -> None:
    """Smoke-test a pushed image by its digest, and record the verdict in the journal."""
    from higgs_image.errors import SMOKE_EXIT_CODES
    from higgs_image.release import smoke_pushed as release_smoke
    from higgs_image.smoke import report as smoke_report

    with output(json) as out, open_image(c, digest, registry, name) as (repository, what):
        entry, record = release_smoke.record_verdict(
            journal_of(repository),
            what,
            setting(c, "device_class", device_class),
            release_smoke.smoke_here(current_workspace(), bench=bench),
            existing_file(file, "--file"),
        )
        out.result({"entry": entry}, entry.text(), smoke_report.markdown(record))
    sys.exit(SMOKE_EXIT_CODES[record.verdict])


@task(
    iterable=["pins"],
    help={
        "keep": "how many of the newest images stay (default: 10)",
        "pins": "file whose digests and tags stay; can be given several times",
        "yes": "delete them; without this it is only planned",
    }
    | REGISTRY_HELP,
)
def cleanup(
    c: Context,
    pins: list[str],
    keep: int = 10,
    registry: str | None = None,
    name: str | None = None,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Delete old images that were never promoted, are not pinned, and are not among the newest."""
    from higgs_image.release import image_store, retention

    with output(json) as out, open_journal(c, registry, name) as history:
        store = image_store.store_of(history.repository)
        plan = retention.plan_cleanup(history, store, keep, retention.pins_in(map(Path, pins)))
        done = retention.apply(history, store, plan) if yes else []
        title = "deleted:" if yes else "would delete (apply it with --yes):"
        out.result({"plan": plan, "deleted": done}, f"{title}\n{plan.text()}")
