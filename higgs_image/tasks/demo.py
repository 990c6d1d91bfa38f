"""The demonstration."""

from __future__ import annotations

from pathlib import Path

from invoke.context import Context

from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output


@task(
    help={
        "extra_ca": "PEM file with CA certificates that the build must trust, such as a proxy's "
        "(default: EXTRA_CA, invoke.yaml, then SSL_CERT_FILE and its like)",
    }
)
def demo(_: Context, out: Output, extra_ca: Path | None = None) -> None:
    """Build, push, pull and run a small fake fork: the whole pipeline on this machine."""
    from higgs_image.demo import demo as demo_demo

    done = demo_demo.run(extra_ca=extra_ca)
    out.result(done, done.text())
