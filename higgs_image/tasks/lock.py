"""invoke lock."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from higgs_image.tasks.output import JSON_HELP, output


@task(
    help={
        "check": "only say whether versions.lock matches the files it covers; change nothing",
        "json": JSON_HELP,
    }
)
def lock(_: Context, check: bool = False, json: bool = False) -> None:
    """Take changed requirements and recipe files into versions.lock (which gives a new tag)."""
    from higgs_image import lock as locks
    from higgs_image.workspace import Workspace

    with output(json) as out:
        workspace = Workspace.default()
        loaded = locks.load(workspace.lock_file)
        if check:
            locks.require_consistent(loaded, workspace.root)
            changed = []
        else:
            changed = locks.refresh(loaded, workspace.root)
            loaded = locks.load(workspace.lock_file)
        text = "\n".join(f"{d.key}: {d.locked[:12]} -> {d.actual[:12]}" for d in changed)
        out.result(
            {"tag": loaded.tag, "sha256": loaded.sha256, "changed": changed},
            f"{text}\n{loaded.tag}" if text else f"versions.lock is consistent: {loaded.tag}",
        )
