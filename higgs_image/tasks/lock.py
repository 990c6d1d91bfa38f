"""invoke lock."""

from __future__ import annotations

import datetime

from invoke.context import Context

from higgs_image.tasks.command import task
from higgs_image.tasks.output import JSON_HELP, output


@task(
    optional=["update"],
    help={
        "update": "ask for newer pins and take them: alone for all that are not held, or with "
        "names, such as --update=fork,base",
        "min_age": "days that a Python package must be old to be taken (default: 14)",
        "dry_run": "with --update: say what would be taken, and change nothing",
        "pull_request": "with --update, in a workflow: open or renew a pull request",
        "check": "only say whether versions.lock matches the files it covers; change nothing",
        "json": JSON_HELP,
    },
)
def lock(
    _: Context,
    update: str | None = None,
    min_age: int = 14,
    dry_run: bool = False,
    pull_request: bool = False,
    check: bool = False,
    json: bool = False,
) -> None:
    """Take changed requirements and recipe files into versions.lock (which gives a new tag)."""
    from higgs_image import lockfile
    from higgs_image.workspace import Workspace

    with output(json) as out:
        workspace = Workspace.default()
        loaded = lockfile.load(workspace.lock_file)
        if update:
            from higgs_image.updates import update as updates_update

            names = [x.strip() for x in update.split(",")] if isinstance(update, str) else []
            report = updates_update.update(
                loaded, workspace.root, names,
                min_age=datetime.timedelta(days=min_age), dry_run=dry_run,
            )  # fmt: skip
            url = ""
            if pull_request:
                from higgs_image.github import pull_request as github_pull_request

                title = f"Take newer pins: {', '.join(x.name for x in report.taken) or 'none'}"
                url = github_pull_request.open_or_renew(workspace.root, title, report.text())
            out.result({"report": report, "pull_request": url}, f"{report.text()}\n{url}".strip())
            return
        if check:
            lockfile.require_consistent(loaded, workspace.root)
            changed = []
        else:
            changed = lockfile.refresh(loaded, workspace.root)
            loaded = lockfile.load(workspace.lock_file)
        text = "\n".join(f"{d.key}: {d.locked[:12]} -> {d.actual[:12]}" for d in changed)
        out.result(
            {"tag": loaded.tag, "sha256": loaded.sha256, "changed": changed},
            f"{text}\n{loaded.tag}" if text else f"versions.lock is consistent: {loaded.tag}",
        )
