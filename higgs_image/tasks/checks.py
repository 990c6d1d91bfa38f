"""invoke test."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from higgs_image.tasks.output import output


@task(
    iterable=["suite"],
    help={
        "suite": "unit, engine, fork or gpu; can be given several times (default: all)",
        "match": "only tests whose names match this expression (pytest -k)",
    },
)
def test(_: Context, suite: list[str], match: str | None = None) -> None:
    """Check formatting, lint and types, and run the tests."""
    from higgs_image import checks

    with output():
        checks.run(suite, ["-k", match] if match else [])
