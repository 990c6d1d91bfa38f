"""The machine itself: doctor, engine, demo."""

from __future__ import annotations

import sys

from invoke.context import Context

from higgs_image.tasks.command import task
from higgs_image.tasks.output import JSON_HELP, output, setting


@task(
    help={
        "registry": "registry to check the login for (default: REGISTRY, then invoke.yaml)",
        "json": JSON_HELP,
    }
)
def doctor(c: Context, registry: str | None = None, json: bool = False) -> None:
    """Say whether this machine can do the job, and what to do about what it lacks."""
    from higgs_image.doctor import examination
    from higgs_image.workspace import Workspace

    with output(json) as out:
        diagnosis = examination.examine(
            Workspace.default(),
            registry=setting(c, "registry", registry),
            name=setting(c, "image_name"),
            base_image=setting(c, "base_image"),
        )
        out.result({"ok": diagnosis.ok, "findings": diagnosis.findings}, diagnosis.text())
    sys.exit(0 if diagnosis.ok else 1)


@task(
    help={
        "registry": "also install what the demonstration needs: docker-registry and mmdebstrap",
        "signing": "also install cosign, which signs images and checks signatures",
        "dry_run": "say what would be done, and do nothing",
        "json": JSON_HELP,
    }
)
def engine(
    _: Context,
    registry: bool = False,
    signing: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Install and start what is missing for a build, on Debian as root."""
    from higgs_image.host import docker_install
    from higgs_image.workspace import Workspace

    with output(json) as out:
        report = docker_install.run(
            Workspace.default(), registry=registry, signing=signing, dry_run=dry_run
        )
        out.result(report, report.text())
