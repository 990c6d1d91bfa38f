"""The demonstration."""

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
    """Build, push, pull and run a small fake fork: the whole pipeline on this machine."""
    from higgs_image.demo import demo as demo_demo

    with output(json) as out:
        ca = existing_file(setting(c, "extra_ca", extra_ca), "--extra-ca")
        done = demo_demo.run(extra_ca=ca)
        out.result(done, done.text())
