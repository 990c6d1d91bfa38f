"""This machine: doctor, install-docker, build-base-image."""

from __future__ import annotations

import sys

from invoke.context import Context

from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output, setting


@task(help={"registry": "registry to check the login for (default: REGISTRY, then invoke.yaml)"})
def doctor(c: Context, out: Output, registry: str = "") -> None:
    """Check whether this machine can build and push, with a hint for what is missing."""
    from higgs_image.doctor import examination

    report = examination.examine(
        current_workspace(),
        registry=registry,
        name=setting(c, "image_name"),
        base_image=setting(c, "base_image"),
    )
    out.result({"ok": report.ok, "findings": report.findings}, report.text())
    sys.exit(0 if report.ok else 1)


@task(
    name="install-docker",
    aliases=("engine",),
    help={
        "registry": "also install docker-registry and mmdebstrap, for the demonstration",
        "signing": "also install cosign, for signatures",
        "dry_run": "only show the steps",
    },
)
def install_docker(
    _: Context, out: Output, registry: bool = False, signing: bool = False, dry_run: bool = False
) -> None:
    """Install and start what a build needs, on Debian as root."""
    from higgs_image.host import docker_install

    report = docker_install.run(
        current_workspace(), registry=registry, signing=signing, dry_run=dry_run
    )
    out.result(report, report.text())


@task(
    name="build-base-image",
    aliases=("base",),
    help={
        "registry": "registry to push to (default: REGISTRY, then invoke.yaml)",
        "refresh": "make it again, with the current Debian packages",
    },
)
def build_base_image(_: Context, out: Output, registry: str = "", refresh: bool = False) -> None:
    """Make a base image from Debian packages, and print its name for build --base-image."""
    from higgs_image import lockfile
    from higgs_image.host import base_image
    from higgs_image.oci import reference as oci_reference

    workspace = current_workspace()
    oci_reference.repository(registry, base_image.NAME)  # refuse an empty one before the work
    python = lockfile.load(workspace.lock_file).python.version
    made = base_image.ensure(workspace, python, refresh=refresh)
    reference = base_image.publish(made, registry)
    out.result({"reference": reference, "base": made}, reference)
