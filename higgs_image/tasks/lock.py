"""The pins of versions.lock: take changes in, check them, take newer ones."""

from __future__ import annotations

import datetime

from invoke.context import Context

from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output


@task(
    optional=["update"],
    help={
        "update": "look for newer pins and take them: alone for all that are not held, or with "
        "names, such as --update=fork,base",
        "min_age": "days that a Python package must be old to be taken (default: 14)",
        "dry_run": "with --update: print what would be taken, and change nothing",
        "pull_request": "with --update, in a workflow: open or renew a pull request",
        "check": "change nothing: check that versions.lock matches the files it covers, and that "
        "the locked packages have no known vulnerability that is not accepted with a reason",
    },
)
def lock(
    _: Context,
    out: Output,
    update: str | None = None,
    min_age: int = 14,
    dry_run: bool = False,
    pull_request: bool = False,
    check: bool = False,
) -> None:
    """Record changed requirements and recipe files in versions.lock (which gives a new tag)."""
    from higgs_image import lockfile
    from higgs_image.errors import UsageError
    from higgs_image.lockfile import audit

    if check and update:
        raise UsageError("--check and --update were both given", "give one of them")
    if not update and (dry_run or pull_request):
        flag = "--dry-run" if dry_run else "--pull-request"
        raise UsageError(f"{flag} needs --update", "./inv --help lock")
    if update:
        names = [x.strip() for x in update.split(",")] if isinstance(update, str) else []
        _update(out, names, min_age, dry_run=dry_run, pull_request=pull_request)
        return
    workspace = current_workspace()
    loaded = lockfile.load(workspace.lock_file)
    if check:
        lockfile.require_consistent(loaded, workspace.root)
        report = audit.audit(workspace, loaded)
        report.require_accepted()
        out.result(
            {"tag": loaded.tag, "sha256": loaded.sha256, "changed": [], "audit": report},
            f"versions.lock is consistent: {loaded.tag}\n{report.text()}",
        )
        return
    changed = lockfile.refresh(loaded, workspace.root)
    loaded = lockfile.load(workspace.lock_file)
    text = "\n".join(f"{d.key}: {d.locked[:12]} -> {d.actual[:12]}" for d in changed)
    out.result(
        {"tag": loaded.tag, "sha256": loaded.sha256, "changed": changed},
        f"{text}\n{loaded.tag}" if text else f"versions.lock is consistent: {loaded.tag}",
    )


def _update(
    out: Output, names: list[str], min_age: int, *, dry_run: bool, pull_request: bool
) -> None:
    from higgs_image.github import pull_request as github_pull_request
    from higgs_image.updates.update import update

    workspace = current_workspace()
    age = datetime.timedelta(days=min_age)
    report = update(workspace, names, min_age=age, dry_run=dry_run)
    url = ""
    if pull_request:
        url = github_pull_request.open_or_renew(workspace.root, report.title, report.text())
    out.result({"report": report, "pull_request": url}, f"{report.text()}\n{url}".strip())
