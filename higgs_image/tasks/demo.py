"""What needs nothing but Debian's and Python's package indexes: demo, base."""

from __future__ import annotations

from invoke.context import Context

from higgs_image.tasks.command import task
from higgs_image.tasks.output import JSON_HELP, existing_file, output, setting


@task(
    help={
        "extra_ca": "PEM file with CA certificates that the build must trust, such as a proxy's "
        "(default: EXTRA_CA, invoke.yaml, then SSL_CERT_FILE and its like)",
        "json": JSON_HELP,
    }
)
def demo(c: Context, extra_ca: str | None = None, json: bool = False) -> None:
    """Show the whole job on this machine: build, push, pull and run a small fake fork."""
    from higgs_image.demo import demo as demo_demo

    with output(json) as out:
        ca = existing_file(setting(c, "extra_ca", extra_ca), "--extra-ca")
        done = demo_demo.run(extra_ca=ca)
        out.result(done, done.text())


@task(
    help={
        "registry": "registry to push it to (default: REGISTRY, then invoke.yaml)",
        "refresh": "make it anew, with Debian's packages of today",
        "json": JSON_HELP,
    }
)
def base(
    c: Context, registry: str | None = None, refresh: bool = False, json: bool = False
) -> None:
    """Make a base image of Debian's packages, and print its name for build --base-image."""
    from higgs_image import lockfile
    from higgs_image.host import base_image
    from higgs_image.oci import reference as oci_reference
    from higgs_image.workspace import Workspace

    with output(json) as out:
        workspace = Workspace.default()
        target = setting(c, "registry", registry)
        oci_reference.repository(target, base_image.NAME)  # before the work, not after it
        python = lockfile.load(workspace.lock_file).python.version
        made = base_image.ensure(workspace, python, refresh=refresh)
        reference = base_image.publish(made, target)
        out.result({"reference": reference, "base": made}, reference)
