"""Checks of the project: test, docs, workflows; and free-disk for runners."""

from __future__ import annotations

from invoke.context import Context

from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output


@task(
    iterable=["suite"],
    help={
        "suite": "unit, engine, fork, gpu or page; can be given several times (default: all)",
        "match": "only tests whose names match this expression (pytest -k)",
    },
)
def test(_: Context, suite: list[str], match: str | None = None) -> None:
    """Run the static checks and the tests; install what the tests need (Debian, root)."""
    from higgs_image.dev import lint

    lint.run(suite, ["-k", match] if match else [])


@task(help={"check": "change nothing; fail if a page is out of date"})
def docs(_: Context, out: Output, check: bool = False) -> None:
    """Render the tables of docs/ from the code."""
    from higgs_image.dev import docs as rendering

    done = rendering.render(current_workspace().root, check=check)
    out.result(done, f"changed: {', '.join(done.changed) or 'nothing'}")


@task()
def workflows(_: Context, out: Output) -> None:
    """Check .github/workflows with zizmor and actionlint."""
    from higgs_image.dev import workflow_lint

    done = workflow_lint.check(current_workspace().root)
    out.result(done, "zizmor and actionlint found nothing")


@task(help={"yes": "do it; without it the steps are only shown"})
def free_disk(_: Context, out: Output, yes: bool = False) -> None:
    """Free disk space on a GitHub Actions runner."""
    from higgs_image.github import runner

    done = runner.free(current_workspace().root, dry_run=not yes)
    out.result(done, done.text())
